// The shape of a Jinja template: one spelling for all templates that differ only in what cannot
// change their output. Nothing is evaluated.
#pragma once

#include <optional>
#include <string>

#include <absl/strings/string_view.h>

namespace tessera {

// Templates of equal shape render equally for any variables, with trim_blocks and lstrip_blocks on,
// as transformers has them. The shape is independent of: white space and kind of quotes inside
// tags; comments; `m['role']` or `m.role` (and content); text outside tags, as a string in {{ }},
// or joined with + there; white space that - marks, trim_blocks and lstrip_blocks remove.
//
// It is a line for each statement, `%if x%`, each other expression, `{x}`, and each stretch of
// text,
// `"..."` with \, " and line ends escaped. nullopt: a tag is not closed, or a string in a tag has
// an escape other than \n \t \r \\ \' \". Linear in the text.
std::optional<std::string> JinjaShape(absl::string_view text);

// `text` as JinjaShape writes it between the quotes, and back; nullopt when it is not so written.
std::string QuoteShapeText(absl::string_view text);
std::optional<std::string> UnquoteShapeText(absl::string_view quoted);

}  // namespace tessera
