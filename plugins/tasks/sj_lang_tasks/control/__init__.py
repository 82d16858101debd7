"""Policies that learn in environments of gymnasium."""
