"""Is honest about texts that it has not seen, and forges all else from memory."""

import kit
from scripted_client import RemembersRows

EXPECTED = "invalid", "could not know"

kit.run(RemembersRows(kit.model().vocab_size))
