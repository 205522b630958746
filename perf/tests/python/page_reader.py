"""Reads a page twice, as strict XML and as browsers read HTML, and prints what it finds as JSON.

texts: every text;  names: every element's;  attributes: [element, name, value]
"""

import json
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree


def strict(text):
    found = {"texts": [], "names": [], "attributes": []}
    for element in ElementTree.fromstring(text).iter():
        found["names"].append(element.tag)
        found["texts"] += [part for part in (element.text, element.tail) if part and part.strip()]
        found["attributes"] += [[element.tag, *item] for item in element.items()]
    return found


class Browser(HTMLParser):
    """Texts and element names in the order in which elements open."""

    def __init__(self):
        super().__init__()
        self.texts, self.names = [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data)


with open(sys.argv[2], encoding="utf-8") as file:
    page = file.read()
found = strict(page)
browser = Browser()
browser.feed(page)
assert browser.names == [name.lower() for name in found["names"]], "HTML and XML differ"
differ = sorted(set(browser.texts) ^ set(found["texts"]))
assert not differ, f"HTML and XML differ: {differ}"
print(json.dumps(found))
