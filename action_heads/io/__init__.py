"""Files, folders, locks and the Hub."""
