"""May it happen: policy, decisions and their log, approvals."""
