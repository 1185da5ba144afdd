"""The names of things and places, in three themes.

The themes have the names of the official templates and use their nouns for averages and totals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache


@dataclass(frozen=True, eq=False)
class Theme:
    """Each pair of a thing and a place has a number and, in hard problems, an average."""

    name: str
    per_thing: str  # the noun of an average
    total: str  # the noun of a place's total
    grand: str  # the noun of a place's grand total
    things: tuple[str, ...]
    places: tuple[str, ...]


def _names(text: str, form: str = "{}") -> tuple[str, ...]:
    return tuple(form.format(" ".join(name.split())) for name in text.split(","))


ZOO = Theme(
    name="crazy_zootopia",
    per_thing="newborn children",
    total="adult animals",
    grand="newborn animal children",
    things=_names(
        """owl, wolf, bear, fox, deer, racoon, eagle, parrot, crow, blue jay, otter, beaver, badger, lynx, moose, bison,
        hare, hedgehog, mole, weasel, marten, stoat, heron, swan, stork, raven, falcon, magpie, tortoise, newt, toad,
        salamander""",
        "adult {}",
    ),
    places=_names(
        """Cedar Valley, Beverly Forest, Hamilton Farm, Bundle Ranch, Maple Creek, Oakridge Riverside, Mayer Aquarium,
        South Zoo, Pine Ridge, Jefferson Circus, Willow Marsh, Granite Pass, Heron Lake, Juniper Hill, Foxglove Meadow,
        Silver Canyon, Birch Hollow, Thistle Moor, Amber Dunes, Copper Gorge, Misty Fjord, Larch Plateau, Salt Lagoon,
        Windmill Park, Harbour Reserve, North Sanctuary, Kestrel Cliffs, Orchard Estate, Stony Brook, Mossy Glen,
        Coral Bay, Lantern Island"""
    ),
)

FILMS = Theme(
    name="movie_festival_awards",
    per_thing="nominations",
    total="movies",
    grand="movie nominations",
    things=_names(
        """futuristic sci-fi movie, calm road movie, upbeat metropolis comedy, solemn period drama,
        intense detective thriller, silent slapstick comedy, nostalgic family drama, gritty heist thriller,
        whimsical stop-motion movie, lavish costume musical, sombre war drama, dusty desert western,
        playful puppet movie, tender seaside romance, eerie lighthouse mystery, brisk newsroom comedy,
        patient nature documentary, restless street documentary, grand mountain adventure, tense submarine thriller,
        gentle village comedy, bleak polar drama, colourful carnival musical, slow courtroom drama,
        clever chess mystery, rowdy circus comedy, moody jazz drama, bold pirate adventure, quiet monastery documentary,
        sly museum thriller, wistful railway romance, wild racing movie"""
    ),
    places=_names(
        """Cinéma de Montreval, Festival de Clairmont, Golden Banana Movie Festival, Festival Lumière de Valmont,
        Festival de Saint-Rivage, West Sahara Movie Festival, Northwood Movie Festival, Rêves de Belleville,
        Verdi Movie Festival, Taylor Movie Festival, Silver Acorn Movie Festival, Harbour Lights Movie Festival,
        Festival de Rochebrune, Cinéma de Grandpré, Festival Étoile de Marsan, Rêves de Fontclair,
        Old Mill Movie Festival, Red Lantern Movie Festival, Paper Moon Movie Festival, Festival de Beaulac,
        Cinéma de Vieuxport, Blue Heron Movie Festival, Granite City Movie Festival, Festival Aurore de Luzac,
        East Meridian Movie Festival, Copper Reel Movie Festival, Rêves de Sableton, Winter Garden Movie Festival,
        Festival de Courvallon, Cinéma de Hautebrise, Tall Pines Movie Festival, Last Tram Movie Festival"""
    ),
)

SCHOOLS = Theme(
    name="teachers_in_school",
    per_thing="teachers",
    total="schools",
    grand="teachers from all schools",
    things=_names(
        """elementary school, private middle school, public highschool, regional medical school, culinarian school,
        evening language school, village music school, naval engineering school, forestry school,
        bilingual kindergarten, school of glassblowing, school of cartography, school of clockmaking,
        school of beekeeping, school of navigation, school of shipbuilding, nursing academy, ballet academy,
        chess academy, railway academy, pottery academy, winemaking academy, robotics academy, translation academy,
        veterinary institute, weaving institute, statistics institute, astronomy institute, woodcarving institute,
        opera conservatory, violin conservatory,
        puppetry conservatory"""
    ),
    places=_names(
        """Evervale City, Brightford, Clearwater Bay, Ruby Bay, Glenfield City, Riverton City, Westhaven City,
        Oakbridge City, Hawkesbury, Shoreline City, Ashcombe, Elmsworth, Foxborough, Granville Heights, Hollowbrook,
        Ironbridge City, Kingsmere, Larkhill, Millstone Town, Netherby, Orchard Town, Pebbleton, Queensferry,
        Rosewick, Stonegate City, Tidewater Bay, Underhill, Vinefield, Whitcombe Bay, Yarrowdale, Zephyr Point,
        Copperton City"""
    ),
)

THEMES = (ZOO, FILMS, SCHOOLS)
NAMES = 32  # things, and places, of each theme


@cache
def themes_of(name: str | None, names: int) -> tuple[Theme, ...]:
    """The theme of this name, or all, with their first `names` things and places."""
    found = (theme for theme in THEMES if name in (None, theme.name))
    return tuple(replace(theme, things=theme.things[:names], places=theme.places[:names]) for theme in found)
