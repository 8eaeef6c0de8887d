"""Filter expressions: which records of an answer a reader wants.

The language of ``?filter`` in Consul 1.10, with its error texts. An expression's text becomes
syntax (`grammar`), which together with the declaration of a record (`selectors`) becomes a function
(`evaluation`).
"""

from isthmus.bexpr.filters import check_syntax, compile_filter
from isthmus.bexpr.syntax import BadExpression

__all__ = ["BadExpression", "check_syntax", "compile_filter"]
