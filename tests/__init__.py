"""Tests: `unit` (no network, no disk), `integration` (one adapter each), `end_to_end` (the whole service)."""
