"""Reports that people read: self-contained HTML pages."""
