"""Tests of one module each, without network."""
