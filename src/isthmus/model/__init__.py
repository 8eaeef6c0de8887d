"""The nouns: frozen records that everything else speaks."""
