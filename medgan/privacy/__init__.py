"""The privacy gate: attacks with confidence bounds, a policy, and a self-test that shows in every run that it sees."""
