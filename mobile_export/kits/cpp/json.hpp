// As much JSON as a model's card needs: objects, arrays, strings, numbers, true, false, null.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

struct Json {
  enum class Kind { null, boolean, number, string, array, object };
  Kind kind = Kind::null;
  double number = 0;
  std::string string;
  std::vector<Json> array;
  std::map<std::string, Json> object;

  bool is_null() const { return kind == Kind::null; }
  const Json& operator[](const std::string& name) const {
    static const Json nothing;
    const auto found = object.find(name);
    return found == object.end() ? nothing : found->second;
  }
  int64_t integer(const std::string& name) const {
    const Json& value = (*this)[name];
    if (value.kind != Kind::number) throw std::runtime_error("the card has no number " + name);
    return static_cast<int64_t>(value.number);
  }
};

class JsonReader {
 public:
  static Json read(const std::string& text) {
    JsonReader reader(text);
    Json value = reader.value(0);
    reader.space();
    if (reader.at_ != text.size()) reader.fail();
    return value;
  }

 private:
  explicit JsonReader(const std::string& text) : text_(text) {}

  [[noreturn]] void fail() const {
    throw std::runtime_error("not JSON at byte " + std::to_string(at_));
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void space() {
    while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos) ++at_;
  }
  void expect(const std::string& word) {
    if (text_.compare(at_, word.size(), word) != 0) fail();
    at_ += word.size();
  }
  bool comes(char symbol) {
    space();
    if (peek() != symbol) return false;
    ++at_;
    return true;
  }

  Json value(int depth) {
    if (depth > 64) fail();
    space();
    Json result;
    if (comes('{')) {
      result.kind = Json::Kind::object;
      if (comes('}')) return result;
      do {
        space();
        const std::string name = quoted();
        if (!comes(':')) fail();
        result.object[name] = value(depth + 1);
      } while (comes(','));
      if (!comes('}')) fail();
    } else if (comes('[')) {
      result.kind = Json::Kind::array;
      if (comes(']')) return result;
      do result.array.push_back(value(depth + 1));
      while (comes(','));
      if (!comes(']')) fail();
    } else if (peek() == '"') {
      result.kind = Json::Kind::string;
      result.string = quoted();
    } else if (peek() == 't' || peek() == 'f') {
      result.kind = Json::Kind::boolean;
      result.number = peek() == 't';
      expect(peek() == 't' ? "true" : "false");
    } else if (peek() == 'n') {
      expect("null");
    } else {
      char* end = nullptr;
      result.kind = Json::Kind::number;
      result.number = std::strtod(text_.c_str() + at_, &end);
      if (end == text_.c_str() + at_) fail();
      at_ = static_cast<size_t>(end - text_.c_str());
    }
    return result;
  }

  std::string quoted() {
    expect("\"");
    std::string result;
    while (peek() != '"') {
      if (at_ >= text_.size()) fail();
      if (peek() != '\\') {
        result += text_[at_++];
        continue;
      }
      ++at_;
      const char escape = peek();
      ++at_;
      const std::string from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
      const size_t known = from.find(escape);
      if (escape == 'u') {
        append_utf8(result, code_point());
      } else if (known != std::string::npos) {
        result += to[known];
      } else {
        fail();
      }
    }
    ++at_;
    return result;
  }

  uint32_t hex4() {
    const std::string digits = text_.substr(at_, 4);
    if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
      fail();
    at_ += 4;
    return static_cast<uint32_t>(std::stoul(digits, nullptr, 16));
  }

  uint32_t code_point() {
    const uint32_t high = hex4();
    if (high < 0xD800 || high > 0xDBFF) return high;
    expect("\\u");  // beyond the basic plane two units make one character
    return 0x10000 + ((high - 0xD800) << 10) + (hex4() - 0xDC00);
  }

  static void append_utf8(std::string& text, uint32_t code) {
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += static_cast<char>(0xC0 | (code >> 6));
      text += static_cast<char>(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      text += static_cast<char>(0xE0 | (code >> 12));
      text += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      text += static_cast<char>(0x80 | (code & 0x3F));
    } else {
      text += static_cast<char>(0xF0 | (code >> 18));
      text += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
      text += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      text += static_cast<char>(0x80 | (code & 0x3F));
    }
  }

  const std::string& text_;
  size_t at_ = 0;
};
