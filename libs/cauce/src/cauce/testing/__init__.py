"""For the tests of those who use Cauce: services run for real, inside pytest, and every step can be waited for."""

from cauce.testing.story import Story, StoryError, story

__all__ = ["Story", "StoryError", "story"]
