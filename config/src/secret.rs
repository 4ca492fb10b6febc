//! What in a text may be a password: a diagnostic shows the line that it is about, and must not show that.

use std::ops::Range;

/// Parts of keys that say that the value is nobody's business, also where the key is a slip or comes from a Java client's settings.
const TELLTALES: [&str; 6] = ["pass", "pwd", "secret", "jaas", "token", "credential"];

/// Keys that say where a secret is, not what it is.
const PLACES: [&str; 3] = ["sasl_password_file", "sasl_password_env", "sasl_oauthbearer_token_file"];

/// The byte ranges of the text that may hold a secret: from behind a key to the end of its value, at least to the end of the line.
///
/// This looks at the text and not at the parsed tables, because the line that is shown may be the one that is not TOML.
pub(crate) fn ranges(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let mut end = line_end(text, at);
        if let Some(credentials) = credentials(&text[at..end]) {
            ranges.push(at + credentials.start..at + credentials.end);
        } else if let Some(length) = key_end(&text[at..end]) {
            end = value_end(text, at + length);
            let value = text[at + length..end].trim_start_matches(is_opening);
            let start = end - value.len();
            let value = value.trim_end();
            // The closing quote stays, so that the line still looks like what it is.
            ranges.push(start..start + value.strip_suffix(['"', '\'']).unwrap_or(value).len());
        }
        at = end + 1;
    }
    ranges
}

/// From the first user and password before a host (`USER:PASSWORD@HOST`, as in a URL) to the end of the line.
fn credentials(line: &str) -> Option<Range<usize>> {
    let at = line.match_indices('@').find_map(|(at, _)| {
        let is_part = |char: char| !char.is_whitespace() && !matches!(char, '"' | '\'' | ',' | '/' | '=');
        let start = line[..at].trim_end_matches(is_part).len();
        line[start..at].contains(':').then_some(start)
    })?;
    let value = line[at..].trim_end();
    Some(at..at + value.strip_suffix(['"', '\'']).unwrap_or(value).len())
}

/// What stands between a key and the first character of its value.
fn is_opening(char: char) -> bool {
    char.is_whitespace() || matches!(char, '=' | ':' | '"' | '\'')
}

fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |length| at + length)
}

/// Where in a line the first key ends that may name a secret. A key stands at the start, or in an inline table behind a brace or a comma.
fn key_end(line: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let key = line[at..].trim_start_matches(|char: char| char.is_whitespace() || matches!(char, '"' | '\'' | '#'));
        let start = line.len() - key.len();
        // In quotes a key may have blanks in it.
        let is_quoted = line[..start].ends_with(['"', '\'']);
        let is_key = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-' | '.') || is_quoted && char == ' ';
        let end = start + key.find(|char| !is_key(char)).unwrap_or(key.len());
        if may_name_a_secret(&line[start..end]) {
            return Some(end);
        }
        at = end + line[end..].find(['{', ','])? + 1;
    }
}

fn may_name_a_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key).to_lowercase();
    let key = key.to_lowercase().replace(['.', '-', ' '], "_");
    let is_place = PLACES.iter().any(|place| key.ends_with(place));
    !is_place && (TELLTALES.iter().any(|telltale| key.contains(telltale)) || strsim::damerau_levenshtein(&last, "sasl_password") <= 4)
}

/// The end of the line where the value behind a key ends. A value in triple quotes has many lines; one that is on the line behind its key
/// is not TOML, but still a secret.
fn value_end(text: &str, key_end: usize) -> usize {
    let line = &text[key_end..line_end(text, key_end)];
    for quotes in ["\"\"\"", "'''"] {
        if let Some(opened) = line.find(quotes) {
            let value = key_end + opened + quotes.len();
            let closed = text[value..].find(quotes).map_or(text.len(), |length| value + length);
            return line_end(text, closed);
        }
    }
    let end = key_end + line.len();
    if line.contains(|char| !is_opening(char)) || line.contains("\"\"") || line.contains("''") || end == text.len() {
        end
    } else {
        line_end(text, end + 1)
    }
}
