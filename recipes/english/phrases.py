"""A grammar of everyday English: numbers, dates, times, spelled names, codes, addresses, commands, talk."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

__all__ = ["phrase", "say_number", "say_ordinal", "spell"]

UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen""".split()
TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
MONTHS = """january february march april may june july august september october november december""".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday today tomorrow tonight".split()
FIRST_NAMES = """James Mary John Patricia Robert Jennifer Michael Linda David Elizabeth William Barbara
Richard Susan Joseph Jessica Thomas Karen Charles Sarah Christopher Lisa Daniel Nancy Matthew Sandra
Anthony Betty Mark Ashley Donald Emily Steven Kimberly Andrew Margaret Paul Donna Joshua Michelle Kenneth
Carol Kevin Amanda Brian Melissa Timothy Deborah Ronald Stephanie George Rebecca Jason Laura Edward Helen
Jeffrey Sharon Ryan Cynthia Jacob Kathleen Nicholas Amy Gary Angela Eric Shirley Jonathan Brenda Stephen
Emma Larry Anna Justin Pamela Scott Nicole Brandon Samantha Benjamin Katherine Samuel Christine Gregory
Virginia Alexander Debra Patrick Rachel Frank Janet Raymond Maria Jack Diane Dennis Julie Jerry Joyce
Tyler Victoria Aaron Kelly Jose Christina Adam Joan Nathan Evelyn Henry Lauren Zachary Judith Douglas
Olivia Peter Frances Kyle Martha Noah Cheryl Ethan Megan Jeremy Andrea Walter Hannah Christian Jacqueline
Keith Ann Roger Jean Terry Alice Austin Kathryn Sean Gloria Gerald Teresa Carl Doris Wei Yuki Fatima Omar
Ahmed Priya Ravi Chen Ling Akinyi Otieno Amina Diego Lucia Ingrid Lars Zoe Quentin Xavier Vera Felix Iris
Hugo Ivy Maxwell Judy""".split()
LAST_NAMES = """Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez
Gonzalez Wilson Anderson Taylor Moore Jackson Martin Lee Perez Thompson White Harris Sanchez Clark Ramirez
Lewis Robinson Walker Young Allen King Wright Torres Nguyen Hill Flores Green Adams Nelson Baker Hall
Rivera Campbell Mitchell Carter Roberts Gomez Phillips Evans Turner Diaz Parker Cruz Edwards Collins Reyes
Stewart Morris Morales Murphy Cook Rogers Gutierrez Ortiz Morgan Cooper Peterson Bailey Reed Howard Ramos
Kim Cox Ward Richardson Watson Brooks Wood James Bennett Gray Mendoza Hughes Price Alvarez Castillo
Sanders Patel Myers Long Ross Foster Jimenez Powell Jenkins Perry Russell Sullivan Bell Coleman Butler
Henderson Barnes Fisher Vasquez Simmons Graham Murray Ford Hamilton Kowalski Zimmerman Quinn Vaughn Xiong
Yamamoto Okafor Singh Huang Fitzgerald Weaver Dixon Hawkins Schultz""".split()
CITIES = """Pittsburgh Boston Chicago Denver Seattle Dallas Houston Phoenix Atlanta Miami Detroit Memphis
Portland Austin Cleveland Oakland Buffalo Albany Toledo Newark London Paris Berlin Madrid Nairobi Cairo
Delhi Tokyo Sydney Toronto Dublin Vienna Lisbon Harrisburg Baltimore Cincinnati Philadelphia Sacramento
Minneapolis Jacksonville Springfield""".split()
STREETS = """Main Oak Maple Cedar Elm Washington Lake Hill Walnut Park Forbes Fifth Penn Spring River
Church Highland Center Sunset Pine Franklin Lincoln Jefferson Madison Chestnut Willow Murray Beechwood
Wilkins Northumberland""".split()
STREET_KINDS = "street avenue road drive lane court boulevard place way".split()
ACTIONS = "play stop pause open close start cancel repeat save delete print send find show".split()
THINGS = """music|the radio|my messages|the news|the calendar|the door|the window|the file|the last song|
my alarm|the timer|the shopping list|the report|the camera|that photo|the next page|my notes|the map|
the garage""".split("|")
ROOMS = "kitchen|bedroom|living room|bathroom|hallway|garden|office|garage|basement|dining room".split("|")
FOODS = """bread|milk|eggs|apples|cheese|rice|coffee|tea|orange juice|potatoes|onions|tomatoes|chicken|fish|
butter|sugar|salt|pasta|soup|salad|bananas|chocolate|water|beans|carrots|honey|flour|yogurt|pepper|lemons""".split(
    "|"
)
PLACES = """the airport|the train station|the library|the bank|the post office|the hospital|the school|
the museum|the supermarket|the pharmacy|the park|the beach|my office|the restaurant|the hotel|
the gas station|the cinema""".split("|")
ACTIVITIES = """watching films|playing football|reading books|cooking dinner|riding my bike|taking pictures|
listening to music|learning languages|working in the garden|going for a walk|visiting my grandmother|
swimming in the lake|talking with friends|painting the fence|drinking coffee|climbing mountains""".split("|")
FEELINGS = (
    "happy tired hungry thirsty busy late ready sorry worried excited angry bored proud sick fine".split()
)
WEATHER = "sunny|cloudy|raining|snowing|windy|very cold|too hot|foggy|warm|getting dark".split("|")

Spoken = tuple[str, str]


def say_number(number: int) -> str:
    """Cardinal in words, in the American way (no "and"): 1205 -> "one thousand two hundred five"."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return TENS[tens - 1] + (f" {UNITS[rest]}" if rest else "")
    for size, name in ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= size:
            count, rest = divmod(number, size)
            return f"{say_number(count)} {name}" + (f" {say_number(rest)}" if rest else "")
    raise AssertionError("unreachable: every number from 100 up has a size")


def say_ordinal(number: int) -> str:
    """Ordinal in words: 21 -> "twenty first"."""
    *front, last = say_number(number).split()
    if last.endswith("y"):
        return " ".join([*front, last[:-1] + "ieth"])
    return " ".join([*front, ORDINALS.get(last, last + "th")])


def say_year(rng: random.Random) -> str:
    year = rng.choice([rng.randrange(1900, 2000), rng.randrange(1900, 2000), rng.randrange(2000, 2031)])
    century, rest = divmod(year, 100)
    if year >= 2000 and (rest < 10 or rng.random() < 0.5):
        return say_number(year)
    if rest < 10:
        return f"{say_number(century)} {f'oh {UNITS[rest]}' if rest else 'hundred'}"
    return f"{say_number(century)} {say_number(rest)}"


def spell(letters: str) -> str:
    """What to give the voice so that it names letters: espeak-ng reads a lone "A" inside a line as the article."""
    return " ".join("eigh" if letter.upper() == "A" else letter.upper() for letter in letters)


def spelled(rng: random.Random, word: str) -> Spoken:
    """Letter by letter, sometimes with pauses between all letters or between groups."""
    letters = [letter for letter in word.upper() if letter.isalpha()]
    pause = rng.choice([0.0, 0.1, 0.3, 1.0])
    spoken = "".join(spell(letter) + (", " if rng.random() < pause else " ") for letter in letters)
    return " ".join(letters), spoken.strip(" ,")


def same(text: str) -> Spoken:
    """A phrase that the voice reads as written."""
    return text, text


def join(*parts: Spoken) -> Spoken:
    return " ".join(text for text, _ in parts), " ".join(spoken for _, spoken in parts)


def say_digits(rng: random.Random, count: int) -> str:
    zero = rng.choice(["zero", "oh"])
    return " ".join(rng.choice([zero, *UNITS[1:10]]) for _ in range(count))


def short_number(rng: random.Random) -> str:
    """As people read codes: a digit, a few digits, a two-digit number, or two of these."""
    return rng.choice(
        [
            lambda: say_digits(rng, rng.randrange(1, 4)),
            lambda: say_number(rng.randrange(10, 100)),
            lambda: f"{say_number(rng.randrange(1, 100))} {say_number(rng.randrange(10, 100))}",
        ]
    )()


def code(rng: random.Random) -> Spoken:
    """Command, letters, digits: "ENTER C M U FIFTY SIX", any part of which may lack."""
    parts = []
    if rng.random() < 0.55:
        parts.append(same(rng.choice("enter rubout erase repeat start stop go help".split())))
    if rng.random() < 0.85:
        letters = "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randrange(1, 7)))
        parts.append(spelled(rng, letters))
    if rng.random() < 0.7 or not parts:
        parts.append(same(short_number(rng)))
    return join(*parts)


def spelled_name(rng: random.Random) -> Spoken:
    name = rng.choice([FIRST_NAMES, LAST_NAMES, CITIES, STREETS])
    word = rng.choice(name)
    shape = rng.random()
    if shape < 0.65:
        return spelled(rng, word)
    if shape < 0.85:
        return join(same(f"{word},"), spelled(rng, word))
    return join(
        same(rng.choice(["my name is", "please spell", "that is spelled", "it's"])), spelled(rng, word)
    )


def number(rng: random.Random) -> Spoken:
    shape = rng.random()
    if shape < 0.3:
        return same(say_digits(rng, 5))
    if shape < 0.6:
        return same(f"{say_digits(rng, 3)}, {say_digits(rng, 4)}")
    if shape < 0.75:
        return same(f"{say_digits(rng, 3)}, {say_digits(rng, 3)}, {say_digits(rng, 4)}")
    return same(say_number(int(10 ** rng.uniform(1, 6.5))))


def date(rng: random.Random) -> Spoken:
    month, day = rng.choice(MONTHS).capitalize(), say_ordinal(rng.randrange(1, 32))
    written = rng.choice([f"{month} {day}", f"{month} {day}, {say_year(rng)}", f"the {day} of {month}"])
    frame = rng.choice(
        ["{}", "{}", "it was {}", "the meeting is on {}", "I was born on {}", "we leave on {}"]
    )
    return same(frame.format(written))


def time(rng: random.Random) -> Spoken:
    hour, minute = rng.randrange(1, 13), rng.randrange(0, 60)
    clock = [
        f"{say_number(hour)} o'clock",
        f"half past {say_number(hour)}",
        f"a quarter to {say_number(hour)}",
    ]
    if minute:
        clock.append(say_number(hour) + (" oh " if minute < 10 else " ") + say_number(minute))
    spoken = rng.choice(clock)
    frames = """it is {} now|wake me up at {}|set an alarm for {}|the train leaves at {}|
let's meet at {} {day}|the film starts at {}|remind me to call {name} at {}|the shop closes at {} {day}""".split(
        "|"
    )
    return same(rng.choice(frames).strip().format(spoken, day=rng.choice(DAYS), name=rng.choice(FIRST_NAMES)))


def address(rng: random.Random) -> Spoken:
    house = rng.choice(
        [say_number(rng.randrange(1, 100)), f"{say_number(rng.randrange(10, 100))} {short_number(rng)}"]
    )
    street = f"{house} {rng.choice(STREETS)} {rng.choice(STREET_KINDS)}"
    if rng.random() < 0.3:
        return join(same(f"{house},"), spelled(rng, rng.choice(STREETS)), same(rng.choice(STREET_KINDS)))
    return same(
        rng.choice([street, f"{street}, {rng.choice(CITIES)}", f"take me to {street}", f"I live at {street}"])
    )


def quantity(rng: random.Random) -> Spoken:
    many = say_number(rng.choice([rng.randrange(2, 20), rng.randrange(20, 1000)]))
    frames = """it costs {} dollars|that is {} percent of the price|the road is {} miles long|
she is {} years old|we need {} more {food}|there are {} people at {place}|turn to page {}|
room {} is on the left|bus number {} goes to {place}|the temperature is {} degrees|
I bought {} {food} and {few} {other}|he ran {} meters in {few} minutes""".split("|")
    food, other = rng.sample(FOODS, 2)
    frame = rng.choice(frames).strip()
    few = say_number(rng.randrange(2, 30))
    return same(
        frame.format(many, few=few, food=food.strip(), other=other.strip(), place=rng.choice(PLACES).strip())
    )


def command(rng: random.Random) -> Spoken:
    frames = """{action} {thing}|please {action} {thing}|turn on the light in the {room}|
turn off the {room} light|add {food} to the shopping list|call {name}|call {name} {last}|
send a message to {name}|how do I get to {place}|what is the weather in {city}|is it {weather} in {city}|
turn the volume up|turn the volume down|go back|go forward|turn left|turn right|
set a timer for {few} minutes|set the temperature to {few} degrees|good morning|good night|yes|no|help|stop|
go|start|repeat|enter|thank you|yes please|no thank you|never mind|find a hotel near {place}""".split("|")
    return fill(rng, frames)


def small_talk(rng: random.Random) -> Spoken:
    frames = """how are you {day}|I am {feeling}|are you {feeling}|{name} likes {activity}|
do you like {activity}|my name is {name} {last}|this is my friend {name} from {city}|where is {place}|
it is {weather} {day}|we went to {place} {day}|I would like some {food} and {other}|
{name} and {friend} are {activity}|she doesn't like {food}|can you help me with {thing}|
why are you so {feeling}|I've never been to {city}|let's go to {place}|he's {activity} with {name}|
they were {feeling} because it was {weather}|there isn't any {food} left|what time does {name} come home|
{name}'s brother lives in {city}|don't forget the {food}|did you see {name} at {place}|
I don't know where {name} is|we'll have {food} for dinner {day}""".split("|")
    return fill(rng, frames)


def fill(rng: random.Random, frames: list[str]) -> Spoken:
    food, other = rng.sample(FOODS, 2)
    name, friend = rng.sample(FIRST_NAMES, 2)
    slots = {
        "food": food, "other": other, "name": name, "friend": friend, "last": rng.choice(LAST_NAMES),
        "action": rng.choice(ACTIONS), "thing": rng.choice(THINGS), "room": rng.choice(ROOMS),
        "place": rng.choice(PLACES), "city": rng.choice(CITIES), "day": rng.choice(DAYS),
        "weather": rng.choice(WEATHER), "feeling": rng.choice(FEELINGS), "activity": rng.choice(ACTIVITIES),
        "few": say_number(rng.randrange(2, 90)),
    }  # fmt: skip
    return same(rng.choice(frames).strip().format(**{key: value.strip() for key, value in slots.items()}))


KINDS: dict[Callable[[random.Random], Spoken], float] = {
    code: 0.24, spelled_name: 0.16, number: 0.12, date: 0.08, time: 0.07, address: 0.08, quantity: 0.08,
    command: 0.08, small_talk: 0.09,
}  # fmt: skip


def phrase(rng: random.Random) -> tuple[str, str]:
    """One phrase: (transcript in normal form, what to give the voice)."""
    (make,) = rng.choices(list(KINDS), weights=list(KINDS.values()))
    text, spoken = make(rng)
    return " ".join(text.upper().replace(",", " ").split()), spoken
