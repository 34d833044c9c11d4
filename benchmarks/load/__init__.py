"""The call load generator and what reads its records."""
