"""May we use this document? Licences, the evidence of what rights holders said, and the policy that weighs both."""
