"""Self-contained HTML pages of results that other rooms give."""
