"""Bytes and nouns: stateless codecs, one module per format."""
