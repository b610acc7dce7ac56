"""The web page: its server and the page itself; `python scripts/demo.py` starts it."""
