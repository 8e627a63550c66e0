"""Output for people: terminal, report page, trace, and sentences on a proof."""
