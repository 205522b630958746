//! Elements of HTML and SVG that are well-formed and escaped by construction: text enters only
//! through [`Element::text`] and [`Element::with`].

use std::fmt::{self, Display};

/// An element with its attributes and what is in it.
#[derive(Clone, Debug)]
pub(super) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    content: Vec<Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Element(Element),
}

impl Element {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, attributes: Vec::new(), content: Vec::new() }
    }

    /// Sets an attribute.
    pub(super) fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// Sets coordinates; a tenth of a pixel is fine enough.
    pub(super) fn at<const N: usize>(self, places: [(&'static str, f64); N]) -> Self {
        let set = |element: Self, (name, value)| element.with(name, format_args!("{value:.1}"));
        places.into_iter().fold(self, set)
    }

    pub(super) fn text(mut self, text: impl Display) -> Self {
        self.content.push(Node::Text(text.to_string()));
        self
    }

    pub(super) fn add(mut self, element: Self) -> Self {
        self.content.push(Node::Element(element));
        self
    }

    pub(super) fn maybe(self, element: Option<Self>) -> Self {
        self.all(element)
    }

    pub(super) fn all(mut self, elements: impl IntoIterator<Item = Self>) -> Self {
        self.content.extend(elements.into_iter().map(Node::Element));
        self
    }

    /// Whether a parser of HTML takes it for closed where it opens.
    fn is_void(&self) -> bool {
        self.name == "meta"
    }
}

impl Display for Element {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "<{}", self.name)?;
        for (name, value) in &self.attributes {
            write!(out, " {name}=\"{}\"", Quoted(value))?;
        }
        if self.is_void() {
            return writeln!(out, "/>");
        }
        write!(out, ">")?;
        for node in &self.content {
            match node {
                Node::Text(text) => write!(out, "{}", Text(text))?,
                Node::Element(element) => write!(out, "{element}")?,
            }
        }
        writeln!(out, "</{}>", self.name)
    }
}

/// Text as HTML and XML have it between elements. Quotes stay: in a style they are not spelled out.
struct Text<'a>(&'a str);

/// The same between the quotes of an attribute.
struct Quoted<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| escape(letter, out))
    }
}

impl Display for Quoted<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '"' => out.write_str("&quot;"),
            _ => escape(letter, out),
        })
    }
}

/// Spells out what would end a text, and replaces what neither HTML nor XML may hold.
fn escape(letter: char, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    match letter {
        '&' => out.write_str("&amp;"),
        '<' => out.write_str("&lt;"),
        '>' => out.write_str("&gt;"),
        '\u{fffe}' | '\u{ffff}' => write!(out, "\u{fffd}"),
        _ if letter.is_control() && letter != '\n' => write!(out, "\u{fffd}"),
        _ => write!(out, "{letter}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let element = Element::new("p")
            .with("title", "\"><script>")
            .text("a < \"b\" && c\0\u{1b}[0m")
            .add(Element::new("meta"));
        assert_eq!(
            element.to_string(),
            "<p title=\"&quot;&gt;&lt;script&gt;\">a &lt; \"b\" &amp;&amp; c\u{fffd}\u{fffd}[0m<meta/>\n</p>\n"
        );
    }

    #[test]
    fn coordinates_are_short() {
        let line = Element::new("line").at([("x1", 1.0), ("y1", 2.345)]);
        assert_eq!(line.to_string(), "<line x1=\"1.0\" y1=\"2.3\"></line>\n");
    }
}
