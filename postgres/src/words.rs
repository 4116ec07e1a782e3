//! Words for people: what a misspelt one meant, and an error with its causes.

/// The known word that is most like this one, unless none is like it.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|known| (strsim::levenshtein(word, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().max(3) / 2)
        .map(|(_, known)| known)
}

/// An error and its causes in one line, each once.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_alike_is_meant() {
        let known = ["compression", "key", "acks"];
        assert_eq!(nearest("compresion", known), Some("compression"));
        assert_eq!(nearest("kex", known), Some("key"));
        assert_eq!(nearest("zzzzzzzzz", known), None);
    }
}
