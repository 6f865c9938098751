"""Benchmarks: run by `make bench`, never asserted on time in a test."""
