"""The dynamics reward: how real a transition looks to an ensemble of discriminators, and how that is learned."""
