"""What several suites share: the synthesized template, and a small cloud made from it."""
