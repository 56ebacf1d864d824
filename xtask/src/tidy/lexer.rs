//! As much of Rust's grammar as tidy needs: what is code, what is comment, where the tests are.
//!
//! Interface: [`blank`], [`without_tests`], [`tokens`], [`line_of`].
//! Linux counterpart: none.
//! Locks and context: pure functions.

/// The text with the content of comments, strings and characters replaced by blanks; every byte keeps its place.
pub fn blank(text: &str) -> String {
    let b = text.as_bytes();
    let mut out = b.to_vec();
    let mut i = 0;
    while i < b.len() {
        let end = match b[i] {
            b'/' if b.get(i + 1) == Some(&b'/') => end_of_line(b, i),
            b'/' if b.get(i + 1) == Some(&b'*') => end_of_block(b, i),
            b'"' => end_of_string(b, i),
            b'r' | b'b' | b'c' if !in_word(b, i) => match raw_string(b, i) {
                Some(end) => end,
                None => {
                    i += 1;
                    continue;
                }
            },
            b'\'' => match character(b, i) {
                Some(end) => end,
                None => {
                    i += 1;
                    continue;
                }
            },
            _ => {
                i += 1;
                continue;
            }
        };
        for c in &mut out[i..end] {
            if *c != b'\n' {
                *c = b' ';
            }
        }
        i = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn in_word(b: &[u8], i: usize) -> bool {
    i > 0 && is_word(b[i - 1])
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

fn end_of_line(b: &[u8], i: usize) -> usize {
    b[i..].iter().position(|&c| c == b'\n').map_or(b.len(), |n| i + n)
}

fn end_of_block(b: &[u8], mut i: usize) -> usize {
    let mut depth = 0;
    while i < b.len() {
        match &b[i..b.len().min(i + 2)] {
            b"/*" => {
                depth += 1;
                i += 2;
            }
            b"*/" => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    b.len()
}

fn end_of_string(b: &[u8], i: usize) -> usize {
    let mut i = i + 1;
    while i < b.len() {
        match b[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    b.len()
}

/// `r"…"`, `r#"…"#`, `br"…"`, `b"…"`, `c"…"`; `None` for a plain word.
fn raw_string(b: &[u8], i: usize) -> Option<usize> {
    let mut j = i;
    let mut raw = false;
    while matches!(b.get(j), Some(b'r' | b'b' | b'c')) && j < i + 2 {
        raw |= b[j] == b'r';
        j += 1;
    }
    let hashes = b[j..].iter().take_while(|&&c| c == b'#').count();
    if b.get(j + hashes) != Some(&b'"') || (!raw && hashes > 0) {
        return None;
    }
    if !raw {
        return Some(end_of_string(b, j));
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let from = j + hashes + 1;
    let at = b[from..].windows(close.len()).position(|w| w == close)?;
    Some(from + at + close.len())
}

/// A character literal; `None` for a lifetime.
fn character(b: &[u8], i: usize) -> Option<usize> {
    if b.get(i + 1) == Some(&b'\\') {
        let at = b[i + 3..].iter().position(|&c| c == b'\'')?;
        return Some(i + 3 + at + 1);
    }
    // One character of up to four bytes.
    let at = b.get(i + 2..b.len().min(i + 6))?.iter().position(|&c| c == b'\'')?;
    let text = std::str::from_utf8(&b[i + 1..i + 2 + at]).ok()?;
    (text.chars().count() == 1).then_some(i + 2 + at + 1)
}

/// Blanked code with the bodies of `#[cfg(test)]` items blanked too.
pub fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(at) = out[from..].find("#[cfg(test)]").map(|n| from + n) {
        let end = end_of_item(out.as_bytes(), at + "#[cfg(test)]".len());
        let gap: String = out[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(at..end, &gap);
        from = end;
    }
    out
}

/// Behind the `;` or the closing brace of the item that begins at `i`.
fn end_of_item(b: &[u8], i: usize) -> usize {
    let mut depth = 0;
    for (n, &c) in b[i..].iter().enumerate() {
        match c {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return i + n + 1;
                }
            }
            b';' if depth == 0 => return i + n + 1,
            _ => {}
        }
    }
    b.len()
}

/// Names of the modules in other files that are declared for tests only.
pub fn test_modules(code: &str) -> Vec<String> {
    let t = tokens(code);
    let words: Vec<&str> = t.iter().map(|t| t.1).collect();
    let pattern = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let found = words.windows(pattern.len() + 2).filter(|w| w.starts_with(&pattern) && w[pattern.len() + 1] == ";");
    found.map(|w| w[pattern.len()].to_owned()).collect()
}

/// Words, `::`, and single characters of blanked code, each with its place.
pub fn tokens(code: &str) -> Vec<(usize, &str)> {
    let b = code.as_bytes();
    let mut all = Vec::new();
    let mut i = 0;
    while i < b.len() {
        let n = match b[i] {
            c if c.is_ascii_whitespace() => {
                i += 1;
                continue;
            }
            c if is_word(c) => b[i..].iter().take_while(|&&c| is_word(c)).count(),
            b':' if b.get(i + 1) == Some(&b':') => 2,
            // Multi-byte characters occur in comments and strings only, which are blank.
            _ => 1,
        };
        if let Some(t) = code.get(i..i + n) {
            all.push((i, t));
        }
        i += n;
    }
    all
}

/// The line, from 1, of a place in the text.
pub fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|&&c| c == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_not_code() {
        let src = r##"a "x\"y" b // c
d /* e /* f */ g */ h 'i' '\'' 'j r#"k"l"# b"m" br"n" o::p"##;
        let code = blank(src);
        assert_eq!(code.len(), src.len());
        let words: Vec<&str> = tokens(&code).into_iter().map(|t| t.1).collect();
        assert_eq!(words, ["a", "b", "d", "h", "'", "j", "o", "::", "p"]);
    }

    #[test]
    fn tests_are_left_out() {
        let code = "a\n#[cfg(test)]\nmod tests { fn b() { c } }\nd\n#[cfg(test)]\nmod far;\ne";
        let rest = without_tests(code);
        assert_eq!(tokens(&rest).into_iter().map(|t| t.1).collect::<Vec<_>>(), ["a", "d", "e"]);
        assert_eq!(rest.lines().count(), code.lines().count());
        assert_eq!(test_modules(code), ["far"]);
    }

    #[test]
    fn lines_count_from_one() {
        assert_eq!((line_of("a\nb", 0), line_of("a\nb", 2)), (1, 2));
    }
}
