"""Everything that belongs to one API key: begin with account.py."""
