"""The tables of README.md and docs/, a module for each page; `bench/report.py` writes them."""
