"""Friendly names of runs: adjective-noun-number."""

from random import Random

ADJECTIVES = """
amber azure bold brisk bright calm cheerful clear clever cosmic crisp curious daring deep eager early earnest
easy electric fancy fast fine fluent fresh gentle giddy glad golden graceful grand hardy happy honest jolly keen
kind lively lucid lucky merry mild modest neat noble patient placid playful polite proud quick quiet radiant
rosy serene sharp silent silver smart smooth snowy soft solar spring steady stellar still sunny swift tidy
upbeat vivid warm wild wise witty young zesty
""".split()
NOUNS = """
anchor aurora badger beacon birch bird blossom breeze brook canyon cedar cloud comet coral crane creek dawn deer
delta dune eagle ember falcon feather fern field fjord flower forest fox galaxy garden glacier grove harbor hawk
hill island jungle lagoon lake lantern leaf lion lotus lynx maple meadow mesa meteor moon moss mountain ocean
orchid otter owl pebble pine planet plateau pond prairie rain reef ridge river sea sky smoke snow star stone
storm stream sun sunset surf thunder tree tundra valley violet water wave wind wood
""".split()


def display_name(random: Random, number: int) -> str:
    """Return a name for the project's run of that number."""
    return f"{random.choice(ADJECTIVES)}-{random.choice(NOUNS)}-{number}"
