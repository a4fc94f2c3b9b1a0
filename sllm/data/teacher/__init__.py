"""Task rows written by a teacher, any model behind an OpenAI-compatible API: see generate_data.py.

`contexts` reads the texts, `plans` says what is asked about each, `answers` makes rows of what comes back or says which
rule is broken, `writing` keeps the files.
"""
