"""Against arrays that published implementations computed."""
