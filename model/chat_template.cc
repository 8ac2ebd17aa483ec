#include "model/chat_template.h"

#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/strip.h>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "model/file.h"
#include "model/jinja_shape.h"
#include "model/json.h"

namespace tessera {
namespace {

using Family = ChatStyle::Family;

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
// Stands for any default system prompt in the programs below; no template prints it.
constexpr absl::string_view kAnySystem = "\x01";

struct KnownTemplate {
  absl::string_view name;
  Family family;
  bool prints_bos, prints_eos;
  std::optional<absl::string_view> default_system;
};
constexpr KnownTemplate kKnown[] = {
    {"chatml", Family::kChatMl, false, false, std::nullopt},
    {"qwen1.5", Family::kQwen15, false, false, "You are a helpful assistant"},
    {"qwen2", Family::kChatMl, false, false, "You are a helpful assistant."},
    {"qwen2.5", Family::kQwen25, false, false,
     "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {"qwen3", Family::kQwen3, false, false, std::nullopt},
    {"llama2", Family::kLlama2, true, true, std::nullopt},
    {"llama3", Family::kLlama3, true, false, std::nullopt},
    {"llama3.1", Family::kLlama31, true, false, std::nullopt},
    {"llama3.2", Family::kLlama32, true, false, std::nullopt},
};

// Programs short enough to be given as such, in the plainest spelling.
struct Program {
  absl::string_view name;
  absl::string_view text;
};
constexpr Program kPrograms[] = {
    {"chatml",
     "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content "
     "}}<|im_end|>\n"
     "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"},
    {"qwen2",
     "{% for message in messages %}{% if loop.first and messages[0].role != 'system' %}"
     "<|im_start|>system\n\x01<|im_end|>\n{% endif %}"
     "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
     "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"},
    {"qwen1.5",
     "{% for message in messages %}{% if loop.first and messages[0].role != 'system' %}"
     "<|im_start|>system\n\x01<|im_end|>\n{% endif %}"
     "<|im_start|>{{ message.role }}\n{{ message.content }}"
     "{% if (loop.last and add_generation_prompt) or not loop.last %}<|im_end|>\n{% endif %}"
     "{% endfor %}{% if add_generation_prompt and messages[-1].role != 'assistant' %}"
     "<|im_start|>assistant\n{% endif %}"},
    {"llama3",
     "{% set loop_messages = messages %}{% for message in loop_messages %}"
     "{% set content = '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + "
     "message.content | trim + '<|eot_id|>' %}"
     "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
     "{% endfor %}{% if add_generation_prompt %}"
     "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"},
};

// Longer programs by the FNV-1a hash of their shape, with kAnySystem for the default system prompt
// of those that have one. The texts they were taken from are those of the named checkpoints'
// tokenizer_config.json, as quoted in huggingface.js (packages/jinja/test and
// packages/ollama-utils). The message about an unknown program gives the hash to add here.
struct HashedProgram {
  absl::string_view name;
  uint64_t shape_hash;
};
constexpr HashedProgram kHashedPrograms[] = {
    {"qwen2.5", 0xecfa64bf92ed6814},   // Qwen/Qwen2.5-7B-Instruct
    {"qwen2.5", 0x80bb7251ee64605a},   // the same with {{ }} around the tool call's example
    {"qwen3", 0xa215d7816452d62e},     // Qwen/Qwen3-0.6B
    {"llama2", 0x58799b2e2c4a501b},    // meta-llama/Llama-2-7b-chat-hf
    {"llama3.1", 0x5016dc9c5d422d7d},  // meta-llama/Llama-3.1-8B-Instruct
    {"llama3.2", 0x040701f39386cfb9},  // meta-llama/Llama-3.2-3B-Instruct
};

uint64_t Fnv1a(absl::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

const KnownTemplate* FindKnown(absl::string_view name) {
  for (const KnownTemplate& known : kKnown) {
    if (known.name == name) return &known;
  }
  return nullptr;
}

std::string NameList() {
  return absl::StrJoin(kKnown, ", ", [](std::string* out, const KnownTemplate& known) {
    out->append(known.name.data(), known.name.size());
  });
}

absl::StatusOr<ChatStyle> StyleOf(const KnownTemplate& known, const ChatTemplate::Tokens& tokens) {
  for (const auto& [needed, token, field] :
       {std::tuple(known.prints_bos, &tokens.bos, "bos_token"),
        std::tuple(known.prints_eos, &tokens.eos, "eos_token")}) {
    if (needed && token->empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("chat template ", known.name, " prints ", field,
                       ", which tokenizer_config.json does not name"));
    }
  }
  ChatStyle style = {.family = known.family, .default_system = std::nullopt, .bos = "", .eos = ""};
  if (known.default_system) style.default_system = std::string(*known.default_system);
  if (known.prints_bos) style.bos = tokens.bos;
  if (known.prints_eos) style.eos = tokens.eos;
  return style;
}

// What stands in `shape` where `pattern` has kAnySystem: "" when it has none and the two are equal;
// nullopt when they differ elsewhere or more than a text stands there.
std::optional<std::string> MatchShape(absl::string_view shape, absl::string_view pattern) {
  const size_t wildcard = pattern.find(kAnySystem);
  if (wildcard == absl::string_view::npos) {
    return shape == pattern ? std::optional<std::string>("") : std::nullopt;
  }
  if (shape.size() < pattern.size() - kAnySystem.size() ||
      !absl::ConsumePrefix(&shape, pattern.substr(0, wildcard)) ||
      !absl::ConsumeSuffix(&shape, pattern.substr(wildcard + kAnySystem.size()))) {
    return std::nullopt;
  }
  return UnquoteShapeText(shape);
}

// The default system prompt that a program prints as a ChatML turn, and the program's shape with
// kAnySystem wherever the prompt stands.
struct SystemPrompt {
  std::optional<std::string> text;
  std::string shape_without;
};

SystemPrompt FindSystemPrompt(absl::string_view shape) {
  constexpr absl::string_view kBegin = "\n\"<|im_start|>system\\n";
  constexpr absl::string_view kEnd = "<|im_end|>\\n\"\n";
  for (size_t pos = shape.find(kBegin); pos != shape.npos; pos = shape.find(kBegin, pos + 1)) {
    const size_t begin = pos + kBegin.size();
    const size_t end = shape.find(kEnd, begin);
    if (end == shape.npos || end == begin ||
        shape.substr(begin, end - begin).find('"') != shape.npos) {
      continue;
    }
    const absl::string_view quoted = shape.substr(begin, end - begin);
    return {UnquoteShapeText(quoted), absl::StrReplaceAll(shape, {{quoted, kAnySystem}})};
  }
  return {std::nullopt, ""};
}

struct Recognised {
  absl::string_view name;
  std::optional<std::string> default_system;  // overrides that of the known template
  bool begins_with_bos = false;
};

std::optional<Recognised> Recognise(absl::string_view shape) {
  const SystemPrompt system = FindSystemPrompt(shape);
  const uint64_t hash = Fnv1a(shape);
  const uint64_t any_system_hash = Fnv1a(system.shape_without);
  for (const HashedProgram& program : kHashedPrograms) {
    if (program.shape_hash == hash) return Recognised{program.name, std::nullopt};
    if (program.shape_hash == any_system_hash) return Recognised{program.name, system.text};
  }
  const bool begins_with_bos = absl::ConsumePrefix(&shape, "{bos_token}\n");
  for (const Program& program : kPrograms) {
    const std::optional<std::string> system = MatchShape(shape, JinjaShape(program.text).value());
    if (!system) continue;
    Recognised result = {program.name, std::nullopt, begins_with_bos};
    if (absl::StrContains(program.text, kAnySystem)) result.default_system = *system;
    const bool takes_bos = FindKnown(program.name)->family == Family::kChatMl;
    if (!begins_with_bos || takes_bos) return result;
  }
  return std::nullopt;
}

// The text of a field that names a token by its spelling or as {"content": spelling}; empty if
// none.
absl::StatusOr<std::string> TokenText(const nlohmann::json& config, const char* field,
                                      absl::string_view source) {
  const auto found = config.find(field);
  if (found != config.end() && found->is_object()) {
    return GetString(*found, "content", absl::StrCat(source, ": ", field));
  }
  ASSIGN_OR_RETURN(const auto text, FindString(config, field, source));
  return text.value_or("");
}

// The program in tokenizer_config.json; nullopt when it has none.
absl::StatusOr<std::optional<std::string>> ConfigProgram(const nlohmann::json& config,
                                                         absl::string_view source) {
  const auto field = config.find("chat_template");
  if (field == config.end() || !field->is_array()) {
    return FindString(config, "chat_template", source);
  }
  for (const nlohmann::json& item : *field) {
    const std::string item_source = absl::StrCat(source, ": chat_template");
    ASSIGN_OR_RETURN(const std::string name, GetString(item, "name", item_source));
    if (name == "default") return FindString(item, "template", item_source);
  }
  return std::optional<std::string>();
}

absl::Status Unusable(absl::string_view source, absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat(source, ": ", what,
                   "; choose one with --chat-template NAME, where NAME is one of ", NameList()));
}

}  // namespace

std::string JoinSegments(absl::Span<const ChatSegment> segments) {
  return absl::StrJoin(segments, "", [](std::string* out, const ChatSegment& segment) {
    out->append(segment.text);
  });
}

ChatTemplate::ChatTemplate(std::string name, ChatStyle style)
    : name_(std::move(name)), style_(std::move(style)) {}

std::vector<std::string> ChatTemplate::Names() {
  std::vector<std::string> names;
  for (const KnownTemplate& known : kKnown) names.emplace_back(known.name);
  return names;
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromName(absl::string_view name, const Tokens& tokens) {
  const KnownTemplate* known = FindKnown(name);
  if (known == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("chat template \"", name.substr(0, 60),
                                                   "\" is unknown, must be one of ", NameList()));
  }
  ASSIGN_OR_RETURN(ChatStyle style, StyleOf(*known, tokens));
  return ChatTemplate(std::string(name), std::move(style));
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromText(absl::string_view text, const Tokens& tokens,
                                                    absl::string_view source) {
  const std::string whole_shape = JinjaShape(text).value_or("");
  absl::string_view shape = whole_shape;
  // Says what is so anyway: the flag is always given.
  absl::ConsumePrefix(&shape,
                      "%if not add_generation_prompt is defined%\n"
                      "%set add_generation_prompt = false%\n%endif%\n");
  const std::optional<Recognised> recognised = Recognise(shape);
  if (!recognised) {
    const SystemPrompt system = FindSystemPrompt(shape);
    const uint64_t hash = Fnv1a(system.text ? absl::string_view(system.shape_without) : shape);
    return Unusable(source, absl::StrCat("the chat template is not recognised (shape ",
                                         absl::Hex(hash, absl::kZeroPad16), ")"));
  }
  ASSIGN_OR_RETURN(ChatTemplate result, FromName(recognised->name, tokens));
  if (recognised->default_system) result.style_.default_system = recognised->default_system;
  if (recognised->begins_with_bos) result.style_.bos = tokens.bos;
  return result;
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& dir, absl::string_view name) {
  const std::string config_path = absl::StrCat(dir, "/tokenizer_config.json");
  nlohmann::json config = nlohmann::json::object();
  const absl::StatusOr<std::string> config_text = ReadFile(config_path, kMaxConfigBytes);
  if (config_text.ok()) {
    ASSIGN_OR_RETURN(config, ParseJson(*config_text, config_path));
  } else if (!absl::IsNotFound(config_text.status())) {
    return config_text.status();
  }
  Tokens tokens;
  ASSIGN_OR_RETURN(tokens.bos, TokenText(config, "bos_token", config_path));
  ASSIGN_OR_RETURN(tokens.eos, TokenText(config, "eos_token", config_path));
  if (!name.empty()) return FromName(name, tokens);
  const std::string jinja_path = absl::StrCat(dir, "/chat_template.jinja");
  const absl::StatusOr<std::string> jinja = ReadFile(jinja_path, kMaxConfigBytes);
  if (jinja.ok()) return FromText(*jinja, tokens, jinja_path);
  if (!absl::IsNotFound(jinja.status())) return jinja.status();
  ASSIGN_OR_RETURN(const auto program, ConfigProgram(config, config_path));
  if (!program)
    return Unusable(dir, "no chat_template.jinja and no chat_template in tokenizer_config.json");
  return FromText(*program, tokens, config_path);
}

absl::StatusOr<std::vector<ChatSegment>> ChatTemplate::Render(
    absl::Span<const ChatMessage> messages, const RenderOptions& options) const {
  return RenderChat(style_, messages, options);
}

}  // namespace tessera
