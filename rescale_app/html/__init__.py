"""HTML that the page and reports share: templates, styles, and the comparison with a divider."""
