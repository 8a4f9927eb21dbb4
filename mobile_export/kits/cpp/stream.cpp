// Live captions from a streaming rdsdk artefact, without Python.
//
//   stream MODEL.pte talk.wav              16 kHz mono WAV, 16-bit or float
//   arecord -q -f S16_LE -r 16000 -c 1 | stream MODEL.pte
//   stream MODEL.pte --raw -               raw 16-bit samples on standard input
//   stream MODEL.pte --check vectors       compare with a kit's test vectors: 0 same, 1 different
//
// Final lines go to standard output. What is still being said is redrawn on a terminal, or printed
// with --partials as lines that begin with "~ ".
#include <executorch/runtime/platform/platform.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>

#include "captions.hpp"

namespace {

std::runtime_error fault(const std::string& what) { return std::runtime_error(what); }

// ExecuTorch also logs what nobody can mend, as that it cannot read this processor's details.
void log_errors_only(
    et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
    size_t) {
  if (level == kError || level == kFatal) std::cerr << "executorch: " << message << std::endl;
}

uint32_t little_endian(const char* bytes, size_t count) {
  uint32_t value = 0;
  for (size_t i = count; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

// Samples of a WAV stream or raw 16-bit ones, block by block as they come.
class Sound {
 public:
  Sound(std::istream& in, bool raw, size_t sample_rate) : in_(in) {
    if (!raw) read_header(sample_rate);
  }

  // The next block; empty at the end.
  std::vector<float> read(size_t samples) {
    const size_t size = is_float_ ? 4 : 2;
    std::string bytes(std::min<uint64_t>(samples * size, left_), '\0');
    in_.read(&bytes[0], static_cast<std::streamsize>(bytes.size()));
    left_ -= static_cast<uint64_t>(in_.gcount());
    std::vector<float> block(static_cast<size_t>(in_.gcount()) / size);
    for (size_t i = 0; i < block.size(); ++i) {
      const uint32_t bits = little_endian(&bytes[i * size], size);
      if (is_float_) std::memcpy(&block[i], &bits, 4);
      else block[i] = static_cast<float>(static_cast<int16_t>(bits)) / 32768.0f;
    }
    return block;
  }

 private:
  std::string bytes(size_t count) {
    std::string data(count, '\0');
    if (!in_.read(&data[0], static_cast<std::streamsize>(count))) throw fault("the WAV file ends early");
    return data;
  }

  void read_header(size_t sample_rate) {
    const std::string riff = bytes(12);
    if (riff.substr(0, 4) != "RIFF" || riff.substr(8) != "WAVE")
      throw fault("not a WAV file; give raw 16-bit samples with --raw");
    bool described = false;
    while (true) {
      const std::string chunk = bytes(8);
      const uint32_t size = little_endian(&chunk[4], 4);
      if (chunk.substr(0, 4) == "data") {
        left_ = size;
        break;
      }
      if (size > 1 << 20) throw fault("the WAV header is damaged");
      const std::string body = bytes(size + size % 2);
      if (chunk.substr(0, 4) != "fmt ") continue;
      if (size < 16) throw fault("the WAV header is damaged");
      uint32_t format = little_endian(&body[0], 2);
      if (format == 0xFFFE && size >= 26) format = little_endian(&body[24], 2);
      const uint32_t channels = little_endian(&body[2], 2), rate = little_endian(&body[4], 4);
      const uint32_t bits = little_endian(&body[14], 2);
      is_float_ = format == 3 && bits == 32;
      described = is_float_ || (format == 1 && bits == 16);
      if (!described || channels != 1 || rate != sample_rate)
        throw fault(
            "got WAV format " + std::to_string(format) + " with " + std::to_string(bits) + " bits, " +
            std::to_string(channels) + " channels, " + std::to_string(rate) +
            " Hz; expected 16-bit or float, mono, " + std::to_string(sample_rate) +
            " Hz; convert it: sox in.wav -r 16000 -c 1 -b 16 out.wav");
    }
    if (!described) throw fault("the WAV file does not describe its samples");
  }

  std::istream& in_;
  bool is_float_ = false;
  uint64_t left_ = UINT64_MAX;
};

int transcribe(Captions& captions, std::istream& in, bool raw, bool show_partials) {
  Sound sound(in, raw, captions.card().sample_rate);
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  std::string shown;
  const auto print = [&](const std::vector<std::string>& lines) {
    for (const std::string& line : lines) {
      std::cout << (terminal ? "\r\033[K" : "") << line << std::endl;
      shown.clear();
    }
  };
  while (true) {
    const std::vector<float> block = sound.read(1600);
    if (block.empty()) break;
    print(captions.feed(block.data(), block.size()));
    const std::string partial = captions.partial();
    if (partial.empty() || partial == shown) continue;
    shown = partial;
    if (terminal) std::cout << "\r\033[K" << partial << std::flush;
    else if (show_partials) std::cout << "~ " << partial << std::endl;
  }
  print(captions.finish());
  return 0;
}

std::vector<float> read_floats(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw fault("cannot read " + path);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::vector<float> values(bytes.size() / 4);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t bits = little_endian(&bytes[i * 4], 4);
    std::memcpy(&values[i], &bits, 4);
  }
  return values;
}

// Every call of the vectors from a state of zeros, then the text of the recording.
int check(Captions& captions, const std::string& folder) {
  std::ifstream in(folder + "/index.tsv");
  if (!in) throw fault("cannot read " + folder + "/index.tsv");
  std::map<std::string, std::string> index;
  for (std::string line; std::getline(in, line);) {
    const size_t tab = line.find('\t');
    if (tab != std::string::npos) index[line.substr(0, tab)] = line.substr(tab + 1);
  }
  const Card& card = captions.card();
  const size_t calls = std::stoul(index["calls"]);
  const size_t samples = card.chunk_samples + card.overlap_samples;
  const size_t size = card.chunk_frames * card.symbols.size();
  const std::vector<float> inputs = read_floats(folder + "/inputs.f32");
  const std::vector<float> expected = read_floats(folder + "/log_probs.f32");
  if (calls == 0 || inputs.size() != calls * samples || expected.size() != calls * size)
    throw fault("these vectors are not of this model");
  captions.clear_state();
  double worst = 0;
  for (size_t call = 0; call < calls; ++call) {
    const auto begin = inputs.begin() + static_cast<long>(call * samples);
    const std::vector<float> log_probs = captions.step({begin, begin + static_cast<long>(samples)});
    for (size_t i = 0; i < size; ++i) {
      const double difference = std::fabs(log_probs[i] - expected[call * size + i]);
      worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
    }
  }
  captions.reset();
  std::ifstream recording(folder + "/recording.wav", std::ios::binary);
  if (!recording) throw fault("cannot read " + folder + "/recording.wav");
  Sound sound(recording, false, card.sample_rate);
  std::string text;
  const auto add = [&](const std::vector<std::string>& lines) {
    for (const std::string& line : lines) text += (text.empty() ? "" : " ") + line;
  };
  for (auto block = sound.read(1600); !block.empty(); block = sound.read(1600))
    add(captions.feed(block.data(), block.size()));
  add(captions.finish());
  const bool close = worst <= std::stod(index["tolerance"]), same = text == index["text"];
  std::cout << calls << " calls, log_probs differ by " << worst << " at most, "
            << index["tolerance"] << " allowed: " << (close ? "same" : "DIFFERENT") << "\n"
            << "text \"" << text << "\", expected \"" << index["text"]
            << "\": " << (same ? "same" : "DIFFERENT") << std::endl;
  return close && same ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const auto take = [&](const std::string& flag) {
    const auto found = std::find(words.begin(), words.end(), flag);
    if (found == words.end()) return false;
    words.erase(found);
    return true;
  };
  const bool raw = take("--raw"), partials = take("--partials"), vectors = take("--check");
  if (words.empty() || words.size() > 2 || (vectors && words.size() != 2)) {
    std::cerr << "usage: stream MODEL.pte [--partials] [--raw] [FILE.wav | -]\n"
                 "       stream MODEL.pte --check VECTORS\n";
    return 2;
  }
  executorch::runtime::register_pal(
      executorch::runtime::PalImpl::create(log_errors_only, __FILE__));
  try {
    Captions captions(words[0]);
    if (vectors) return check(captions, words[1]);
    if (words.size() == 1 || words[1] == "-") return transcribe(captions, std::cin, raw, partials);
    std::ifstream file(words[1], std::ios::binary);
    if (!file) throw fault("cannot read " + words[1]);
    return transcribe(captions, file, raw, partials);
  } catch (const std::exception& error) {
    std::cerr << "stream: " << error.what() << std::endl;
    return 2;
  }
}
