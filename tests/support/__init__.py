"""Helpers for the tests of several capabilities."""
