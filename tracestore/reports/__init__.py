"""Reports for people: posteriors side by side in one HTML file; `report.write_report` (needs matplotlib)."""

__all__ = ()
