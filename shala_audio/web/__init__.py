"""The page and the JSON endpoint (needs the `web` extra)."""
