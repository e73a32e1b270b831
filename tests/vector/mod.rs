//! What is in a file of tests/vectors? A small vault, and what has to become of it, as tools/vectors.py describes both.

/// Bytes from two hex digits each.
pub(crate) fn unhex(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// A vector.
pub(crate) struct Vector {
    fields: Vec<(String, String)>,
    pub(crate) vault: Vec<u8>,
}

impl Vector {
    pub(crate) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\n\n").expect("an empty line behind the fields");
        let fields: Vec<(String, String)> = head
            .lines()
            .map(|line| line.split_once(": ").expect("a name and a value"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut vector = Self { fields, vault: Vec::new() };
        vector.vault = vec![0; vector.number("length")];
        for line in body.lines() {
            vector.apply(line);
        }
        vector
    }

    /// `OFFSET HEX`, or `OFFSET <- FROM LENGTH`.
    fn apply(&mut self, line: &str) {
        let number = |word: &str| -> usize { word.parse().expect("a number") };
        match line.split(' ').collect::<Vec<_>>()[..] {
            [at, "<-", from, length] => {
                self.vault.copy_within(number(from)..number(from) + number(length), number(at));
            }
            [at, hex] => {
                let bytes = unhex(hex);
                self.vault[number(at)..number(at) + bytes.len()].copy_from_slice(&bytes);
            }
            _ => panic!("neither bytes nor a copy: {line}"),
        }
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn one(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_else(|| panic!("the field {name}"))
    }

    pub(crate) fn number<N: std::str::FromStr>(&self, name: &str) -> N {
        self.one(name).parse().unwrap_or_else(|_| panic!("{name} is a number"))
    }
}
