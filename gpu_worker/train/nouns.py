"""The nouns that the demo model learns to draw, each with its synonyms and its emoji."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Noun:
    """One noun to draw."""

    code: str
    """The name of its emoji's image files: code points in hex, without variation selectors."""
    words: tuple[str, ...]
    """The noun and its synonyms; the noun comes first and is trained most often."""
    is_scene: bool = False
    """Whether it fills the picture, and so is neither recoloured nor put on a background."""


OBJECTS = """
1f34e apple
1f34c banana
1f353 strawberry
1f347 grapes
1f349 watermelon
1f34b lemon
1f34d pineapple
1f352 cherry|cherries
1f350 pear
1f345 tomato
1f955 carrot
1f344 mushroom|toadstool
1f355 pizza|slice of pizza
1f354 hamburger|burger
1f369 donut|doughnut
1f370 cake|piece of cake
1f366 ice cream
2615 coffee|cup of coffee|cup
1f431 cat|kitten|cat face
1f436 dog|puppy|dog face
1f42d mouse
1f430 rabbit|bunny
1f98a fox
1f43b bear
1f43c panda
1f42f tiger
1f981 lion
1f42e cow
1f437 pig
1f438 frog
1f435 monkey
1f984 unicorn
1f427 penguin
1f989 owl
1f422 turtle|tortoise
1f409 dragon
1f433 whale
1f41f fish
1f419 octopus
1f98b butterfly
1f41d bee
1f41e ladybug|ladybird
1f333 tree
1f334 palm tree|palm
1f335 cactus
1f33b sunflower
1f339 rose
1f338 flower|blossom
1f384 christmas tree
1f383 pumpkin|jack o lantern
26c4 snowman
1f525 fire|flame
2b50 star
2600 sun
1f319 moon|crescent moon
1f30d earth|globe
1fa90 planet|saturn
1f308 rainbow
2601 cloud
1f697 car|automobile
1f68c bus
1f682 train|locomotive
1f6b2 bicycle|bike
2708 airplane|plane
1f680 rocket|spaceship
1f6f8 ufo|flying saucer
26f5 sailboat|boat
1f3e0 house|home
1f3f0 castle|fortress
1f388 balloon
1f381 gift|present
1f451 crown
1f48e diamond|gem
2764 heart
1f4a1 light bulb|lamp
1f4d5 book
1f3b8 guitar
26bd football|soccer ball|ball
1f3a9 hat|top hat
1f9f8 teddy bear
1f916 robot
1f47b ghost
1f47d alien
1f480 skull
1f600 smiley|smiling face|emoji
"""

SCENES = """
1f3d4 mountain|mountains|landscape
1f305 sunrise|sunset
1f3dd island|beach|tropical island
"""

MORE_OBJECTS = """
1f9c0 cheese
1f95a egg
1f428 koala
1f434 horse
1f43a wolf
1f426 bird
1f424 chick
1f986 duck
1f40d snake
1f996 dinosaur|t-rex
1f42c dolphin
1f988 shark
1f40c snail
1f418 elephant
1f411 sheep
1f337 tulip
1f341 leaf|maple leaf
26a1 lightning|thunderbolt
1f692 fire truck|fire engine
1f69c tractor
1f3cd motorcycle|motorbike
1f681 helicopter
1f4f7 camera
1f4bb laptop|computer
23f0 clock|alarm clock
1f3c6 trophy|cup trophy
1f45f shoe|sneaker
1f60e cool face|sunglasses
1f468 man|portrait of a man
1f469 woman|portrait of a woman
1f467 girl|portrait of a girl
1f478 princess
1f934 prince|king
1f9d9 wizard|mage
1f9d1-200d-1f680 astronaut
1f385 santa|santa claus
2602 umbrella
1f34a orange fruit|tangerine
1f351 peach
1f33d corn
1f966 broccoli
1f951 avocado
1f346 eggplant|aubergine
1f35f french fries|fries
1f32d hot dog
1f32e taco
1f363 sushi
1f36a cookie
1f382 birthday cake
1f9c1 cupcake|muffin
1f35e bread|loaf of bread
1f37a beer
1f377 wine|glass of wine
1f414 chicken|hen
1f99c parrot
1f420 tropical fish
1f980 crab
1f577 spider
1f992 giraffe
1f994 hedgehog
1f332 pine tree|fir tree
1f340 clover
2744 snowflake
1f4a7 water drop|drop
1f695 taxi|cab
1f69a truck|lorry
1f6a2 ship
26ea church
26fa tent
1f48d ring
1f511 key
1f514 bell
231a watch
1f3ba trumpet
1f941 drum
1f3c0 basketball
1f453 glasses
1f457 dress
1f466 boy|portrait of a boy
1f9da fairy
1f9dc-200d-2640 mermaid
1f6e1 shield
2694 swords|sword
"""

MORE_SCENES = """
1f30b volcano
1f3d9 city|cityscape|skyline
1f30c galaxy|milky way|night sky
1f3de forest|river|national park
"""


def _read(table: str, *, is_scene: bool) -> list[Noun]:
    rows = [line.split(" ", 1) for line in table.strip().splitlines()]
    return [Noun(code, tuple(words.split("|")), is_scene) for code, words in rows]


CORE = [*_read(OBJECTS, is_scene=False), *_read(SCENES, is_scene=True)]
"""The nouns of the model in the repository."""
NOUNS = [*CORE, *_read(MORE_OBJECTS, is_scene=False), *_read(MORE_SCENES, is_scene=True)]
"""All nouns, for a longer training (`--all-nouns`)."""
