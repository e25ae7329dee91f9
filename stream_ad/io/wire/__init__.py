"""Bytes of records <-> what they hold."""
