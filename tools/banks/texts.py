"""Make the bank of texts: `python -m tools.banks.texts [--check]`.

Sentences of our own on many subjects and in many manners, part of this project. Writes
`spa_compiler/calibration/priors/banks/texts.txt`, one a line; sentences that follow one another are of one subject.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

TARGET = Path(__file__).parents[2] / "spa_compiler" / "calibration" / "priors" / "banks" / "texts.txt"
DIGEST = "9131c4ed7e3395cab7e787d2079ac05437852252198fc8ce5389451f95e69490"
"""SHA-256 of the bank."""
TEXTS = """
The morning train to the coast was late again, so we drank our coffee standing on the platform.
By the time it came, most of the passengers had given up and gone to look for a bus.
My sister said that the journey would be shorter by boat, and for once nobody disagreed with her.
How do I reset my password if I no longer have access to my e-mail address?
Please open the settings, choose "Security", and follow the link at the bottom of the page.
I ordered two of these lamps in March, and one of them stopped working after three weeks.
The shop replaced it without asking a single question, which I did not expect at this price.
Great battery, poor screen, and the buttons feel cheap; three stars.
This is the best vacuum cleaner that we have ever owned, and we have owned many.
The film is forty minutes too long, but the last scene alone is worth the ticket.
I could not stop laughing, although I am still not sure that it was meant to be a comedy.
Scientists have found that the ice near the pole is thinner than at any time since measurements began.
The results, published on Tuesday, are based on forty years of pictures taken by satellites.
A protein folds into its shape within milliseconds, driven by the forces between its atoms and the water around it.
Water boils at 100 degrees Celsius at sea level, and at about 71 degrees on top of Mount Everest.
Light takes a little more than eight minutes to travel from the sun to the earth.
If a triangle has sides of 3, 4 and 5, the angle between the two shorter ones is a right angle.
The derivative of a product is the first factor times the derivative of the second, plus the other way round.
In 1969 two people walked on the moon while a third one circled above them.
The river divides the old town, with its narrow streets and its market, from the harbour and the factories.
It was founded in the twelfth century by monks, who built a mill, a brewery and a small school.
The population grew from 4,000 to more than 90,000 within two generations.
Heat the oil in a large pan, add the onions, and stir until they are soft and golden.
Add the tomatoes, a pinch of salt and half a spoon of sugar, and cook for twenty minutes over a low heat.
Serve with rice, or with bread that is still warm.
Mix 250 grams of flour with two eggs and enough milk to make a thin batter.
The tenant shall pay the rent in advance, on or before the third working day of each month.
Neither party is liable for damage caused by events beyond its reasonable control.
This agreement may be ended by either side with a notice of thirty days in writing.
Shares fell by two per cent in early trading after the company lowered its forecast for the year.
Inflation is expected to slow down, but interest rates will probably stay where they are until autumn.
The minister resigned on Friday after newspapers had printed letters that she was said to have written.
Thousands of people gathered in front of the parliament to protest against the new law.
The home team scored twice in the last five minutes and won by three goals to two.
She ran the marathon in two hours and twenty-one minutes, in spite of the rain.
He has been playing chess since he was six, and he still hates to lose.
"Where have you been?" she asked, without turning round.
"At the library," he said, "and then nowhere in particular."
She did not believe a word of it, but she put a second plate on the table.
The old man opened the door, looked at the snow, and closed it again.
There was once a fox who was so clever that nobody ever told him the truth.
Nobody in the village remembered who had planted the tree, or why it stood in the middle of the road.
They walked for hours through the forest, and the light between the trunks turned from green to grey.
Can you recommend a quiet restaurant near the station that is open on Sundays?
What is the difference between a virus and a bacterium?
Who wrote the music for that advertisement with the dancing bears?
Why does bread become hard when it gets old, while biscuits become soft?
Is it safe to drink the water from the tap here?
The capital of Australia is Canberra, not Sydney, as many people think.
Photosynthesis turns carbon dioxide and water into sugar and oxygen, with the energy of light.
Antibiotics do not help against influenza, because it is caused by a virus.
The patient is a 54-year-old woman with chest pain since this morning, and no fever.
Take one tablet twice a day after meals, and see a doctor if the pain does not go away.
The function returns the index of the first element that is larger than the given value, or -1 if there is none.
Raises an error if the file cannot be opened or if its header is not valid.
Use a list when the order matters and a set when you only need to know whether something is there.
def add(a, b): return a + b
for i in range(10): print(i, i * i)
SELECT name, price FROM products WHERE price < 20 ORDER BY name;
The server answers with status 404 when the page does not exist.
To install the package, run the command below in a terminal and restart the computer.
Compute the mean over the last axis and divide by the standard deviation plus a small constant.
An array of shape (n, 3), in which each row is a point.
The default is None, in which case the whole sequence is read into memory.
Dear Mr. Harris, thank you for your letter of 12 May, and please excuse the delay in answering it.
I am writing to apply for the position of assistant gardener that was advertised on your website.
Hi Tom, are we still meeting at seven? I might be ten minutes late because of the traffic.
lol yes, bring the guitar and something to drink :)
no idea what happened, it just stopped and everything was gone
Happy birthday! I hope that you have a wonderful day and a lot of cake.
Meeting moved to Thursday, 3 p.m., room 204. Please bring the figures for the second quarter.
Turn left after the bridge, go straight on for two kilometres, and the house is on your right.
The museum is closed on Mondays, and tickets for children under twelve are free.
Flight BA 117 to New York is delayed by about fifty minutes.
It will be cloudy in the west, with some rain in the afternoon and temperatures around fifteen degrees.
A strong wind from the north will bring snow to the hills by the weekend.
The painting shows a woman at a window, reading a letter that we cannot see.
He wrote nine symphonies, the last of which he never heard.
Jazz began in New Orleans, where African rhythms met the brass bands of the streets.
The word "window" comes from an old Norse word that meant "eye of the wind".
In Japanese the verb stands at the end of the sentence.
Der Zug nach Hamburg hat heute leider eine halbe Stunde Verspätung.
Je voudrais une table pour deux personnes, près de la fenêtre, s'il vous plaît.
El niño dejó la pelota en el jardín y se fue a comer.
La biblioteca è aperta tutti i giorni tranne la domenica.
Elephants remember places where they found water many years before.
The owl hunts at night, and its feathers make almost no sound.
Bees tell each other where flowers are by dancing in the dark.
Cats sleep for about fifteen hours a day, dogs for about twelve.
The whale is a mammal: it breathes air and feeds its young with milk.
Cut the roses back in early spring, above a bud that points outwards.
Tomatoes need sun, warmth and a lot of water, but not on their leaves.
The engine starts, but after a few seconds it dies with a smell of petrol.
Check the oil every thousand kilometres and change the filter once a year.
An electric motor turns most of the energy that it is given into movement, a petrol engine about a third.
The bridge is 1,280 metres long and carries six lanes of traffic.
We need a model that is small enough to run on a telephone and good enough to be useful.
The network was trained on two million sentences and tested on ten thousand others.
Our method is faster than the one we compare it with, and it needs less memory.
We thank the reviewers for their comments, which helped to improve the paper.
In this chapter we study what happens when the number of parameters is larger than the number of examples.
Philosophers have long asked whether we can know anything about a world that we do not perceive.
If all men are mortal and Socrates is a man, then Socrates is mortal.
Freedom of the press means that newspapers may print what those in power would rather not read.
The war ended in November, but the blockade was not lifted until the following summer.
After the revolution the land was given to the peasants, and much of it was taken from them again.
The emperor moved his capital to the east, to a city that was easy to defend and close to the trade routes.
Children learn to speak without being taught, but nobody learns to read by himself.
The school offers courses in painting, pottery and photography for beginners.
She studied law in Edinburgh, worked as a lawyer for six years, and then opened a bakery.
Choose the correct answer: the opposite of "ancient" is a) old, b) modern, c) broken, d) early.
Translate the following sentence into French and explain which tense you used.
Summary: the product is easy to use, but the instructions are hard to understand.
Question: what did the boy lose? Answer: he lost his left shoe.
The hotel was clean and quiet, and the breakfast was excellent, but the walls are very thin.
We stayed for a week in a small house by the lake and did nothing but swim and read.
Never leave a fire alone in dry weather, not even for a minute.
Smoking is not allowed in any part of the building.
Warning: the surface becomes hot during use and stays hot for some time afterwards.
The price includes tax and delivery, but not the batteries.
You have won! Click here now to claim your free prize before midnight.
Our records show that your last payment of $45.90 has not reached us yet.
The bank will never ask you for your number by telephone.
Invest only what you can afford to lose.
He is taller than his brother, but not as tall as his mother.
If I had known that you were coming, I would have baked a cake.
Although it was raining, the children insisted on playing outside until it was dark.
The glass, which had been standing too close to the edge, fell and broke into a thousand pieces.
Not only did they lose the game, they also missed the last bus home.
I do not think that he meant to hurt you; he simply did not think at all.
There is nothing wrong with the plan, except that it cannot work.
It is never too late to change your mind, as long as you have not signed anything.
"""
"""One a line."""


def main() -> None:
    """Write the bank, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with DIGEST, write nothing")
    check = parser.parse_args().check
    data = make_bank()
    digest = hashlib.sha256(data).hexdigest()
    if not check:
        TARGET.write_bytes(data)
        print(f"{TARGET}: {len(data)} bytes, {digest}")
    elif digest != DIGEST:
        raise SystemExit(f"the bank differs: {digest}")


def make_bank() -> bytes:
    """The lines as UTF-8."""
    return TEXTS.lstrip().encode()


if __name__ == "__main__":
    main()
