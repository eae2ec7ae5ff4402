"""What people and other tools see of a campaign, computed from its journal alone: files, screens, reports."""
