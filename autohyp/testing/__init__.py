"""What tests are built from: fakes, and contract suites that every implementation must pass."""
