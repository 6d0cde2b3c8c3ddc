"""Tests of one adapter each, against a real broker or database."""
