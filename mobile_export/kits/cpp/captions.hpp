// A streaming rdsdk artefact: samples in, lines of text out.
#pragma once

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr_maker.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.hpp"

struct StateTensor {
  std::string name;
  std::vector<executorch::aten::SizesType> shape;
  std::vector<float> zeros() const {
    size_t size = 1;
    for (const auto length : shape) size *= static_cast<size_t>(length);
    return std::vector<float>(size, 0.0f);
  }
};

struct Card {
  std::string name;
  // What two frames share; what two calls share is longer where the model looks ahead.
  size_t frame_overlap_samples, overlap_samples;
  size_t chunk_samples, hop_samples, sample_rate, chunk_frames;
  std::vector<std::string> symbols;
  size_t blank;
  long boundary = -1;  // its id; -1 when every symbol is a word
  std::vector<StateTensor> state;
  std::vector<std::string> outputs;
  std::string method;

  static Card read(const std::string& text) {
    const Json json = JsonReader::read(text);
    const Json& vocabulary = json["vocabulary"];
    const Json& context = json["context"];
    if (json["format"].string != "rdsdk" || vocabulary.is_null() || context.is_null())
      throw std::runtime_error("this card is not one of a streaming rdsdk model that gives text");
    Card card;
    card.name = json["name"].string;
    card.sample_rate = static_cast<size_t>(json.integer("sample_rate"));
    card.hop_samples = static_cast<size_t>(json.integer("hop_samples"));
    card.chunk_frames = static_cast<size_t>(context.integer("chunk_frames"));
    card.chunk_samples = card.chunk_frames * card.hop_samples;
    card.frame_overlap_samples =
        static_cast<size_t>(json.integer("receptive_field_samples")) - card.hop_samples;
    card.overlap_samples = json["overlap_samples"].is_null()
                               ? card.frame_overlap_samples
                               : static_cast<size_t>(json.integer("overlap_samples"));
    card.blank = static_cast<size_t>(vocabulary.integer("blank"));
    for (const Json& symbol : vocabulary["symbols"].array) {
      if (!vocabulary["word_boundary"].is_null() && symbol.string == vocabulary["word_boundary"].string)
        card.boundary = static_cast<long>(card.symbols.size());
      card.symbols.push_back(symbol.string);
    }
    for (const Json& entry : json["state"].array) {
      StateTensor tensor{entry["name"].string, {}};
      for (const Json& length : entry["shape"].array)
        tensor.shape.push_back(static_cast<executorch::aten::SizesType>(length.number));
      card.state.push_back(tensor);
    }
    card.method = json["methods"]["step"].is_null() ? "forward" : "step";
    for (const Json& output : json["methods"][card.method]["outputs"].array)
      card.outputs.push_back(output.string);
    return card;
  }
};

// Greedy CTC: the likeliest symbol of each frame; repeats and blanks collapse, across chunks too.
class GreedyDecoder {
 public:
  explicit GreedyDecoder(const Card& card) : card_(card) {
    const double frames_a_second = static_cast<double>(card.sample_rate) / card.hop_samples;
    silence_frames_ = static_cast<size_t>(0.8 * frames_a_second + 0.5);
    longest_frames_ = static_cast<size_t>(20 * frames_a_second + 0.5);
  }

  void reset() {
    previous_ = card_.blank;
    frame_ = first_frame_ = last_frame_ = 0;
    words_.clear();
    word_.clear();
  }

  // The line that became final with this frame, or nothing.
  std::string feed(const float* log_probs) {
    const size_t symbol = static_cast<size_t>(
        std::max_element(log_probs, log_probs + card_.symbols.size()) - log_probs);
    const bool repeated = symbol == previous_;
    const bool is_boundary = static_cast<long>(symbol) == card_.boundary;
    if (card_.boundary < 0 ? !repeated : is_boundary) end_word();
    if (symbol != card_.blank && !is_boundary) {
      if (words_.empty() && word_.empty()) first_frame_ = frame_;
      if (!repeated) word_ += card_.symbols[symbol];
      last_frame_ = frame_;
    }
    previous_ = symbol;
    ++frame_;
    return is_over() ? finish() : "";
  }

  // What has been heard since the last final line.
  std::string partial() const {
    return words_ + (words_.empty() || word_.empty() ? "" : " ") + word_;
  }

  // There is no more sound: the last line.
  std::string finish() {
    end_word();
    std::string line;
    line.swap(words_);
    return line;
  }

 private:
  void end_word() {
    words_ = partial();
    word_.clear();
  }
  // After a silence, or where the line is long: at the next word, at twice the length anywhere.
  bool is_over() const {
    if (words_.empty() && word_.empty()) return false;
    const size_t length = frame_ - first_frame_;
    return frame_ - (last_frame_ + 1) >= silence_frames_ ||
        length >= longest_frames_ * (word_.empty() ? 1 : 2);
  }

  const Card& card_;
  size_t silence_frames_, longest_frames_;
  size_t previous_ = card_.blank, frame_ = 0, first_frame_ = 0, last_frame_ = 0;
  std::string words_, word_;
};

class Captions {
 public:
  explicit Captions(const std::string& path)
      : module_(path, executorch::extension::Module::LoadMode::Mmap), card_(read_card()) {
    const auto loaded = module_.load_method(card_.method);
    if (loaded != executorch::runtime::Error::Ok)
      throw std::runtime_error("the method " + card_.method + " cannot be loaded");
    const auto meta = module_.method_meta(card_.method);
    if (!meta.ok() || meta->num_inputs() != card_.state.size() + 1 ||
        meta->num_outputs() != card_.outputs.size())
      throw std::runtime_error("the program is not what its card says");
    reset();
  }

  const Card& card() const { return card_; }

  // One call: chunk_samples + overlap_samples in, log_probs (frames, symbols) out, state kept.
  std::vector<float> step(const std::vector<float>& waveform) {
    using executorch::extension::from_blob;
    std::vector<executorch::extension::TensorPtr> tensors;
    tensors.push_back(from_blob(
        const_cast<float*>(waveform.data()),
        {1, static_cast<executorch::aten::SizesType>(waveform.size())}));
    for (size_t i = 0; i < state_.size(); ++i)
      tensors.push_back(from_blob(state_[i].data(), card_.state[i].shape));
    const std::vector<executorch::runtime::EValue> inputs(tensors.begin(), tensors.end());
    const auto outputs = module_.execute(card_.method, inputs);
    if (!outputs.ok()) throw std::runtime_error("the program failed to run");
    std::vector<float> log_probs;
    // Outputs live in memory that the next call overwrites: copy what is kept.
    for (size_t i = 0; i < card_.outputs.size(); ++i) {
      const auto& tensor = outputs->at(i).toTensor();
      const float* data = tensor.const_data_ptr<float>();
      if (card_.outputs[i] == "log_probs") log_probs.assign(data, data + tensor.numel());
      for (size_t s = 0; s < state_.size(); ++s)
        if (card_.outputs[i] == card_.state[s].name) state_[s].assign(data, data + tensor.numel());
    }
    if (log_probs.size() != card_.chunk_frames * card_.symbols.size())
      throw std::runtime_error("the program gave log_probs of an unexpected size");
    return log_probs;
  }

  // A state of zeros: nothing heard, not even silence.
  void clear_state() {
    state_.clear();
    for (const StateTensor& tensor : card_.state) state_.push_back(tensor.zeros());
  }

  // Forget everything. A stream begins after a chunk of silence, as a microphone does.
  void reset() {
    clear_state();
    step(std::vector<float>(card_.chunk_samples + card_.overlap_samples, 0.0f));
    decoder_.reset();
    pending_.clear();
    samples_ = frames_ = 0;
  }

  // Hear samples at 16 kHz in [-1, 1]; the lines that became final.
  std::vector<std::string> feed(const float* samples, size_t count) {
    pending_.insert(pending_.end(), samples, samples + count);
    samples_ += count;
    std::vector<std::string> lines;
    const size_t chunk = card_.chunk_samples, whole = chunk + card_.overlap_samples;
    while (pending_.size() >= whole) {
      decode(step({pending_.begin(), pending_.begin() + whole}), card_.chunk_frames, lines);
      pending_.erase(pending_.begin(), pending_.begin() + chunk);  // the overlap stays
      frames_ += card_.chunk_frames;
    }
    return lines;
  }

  std::string partial() const { return decoder_.partial(); }

  // There is no more sound: the last lines. A symbol may come a little later than its sound.
  std::vector<std::string> finish() {
    constexpr size_t tail_frames = 10;
    std::vector<std::string> lines;
    if (samples_ > 0) {
      const size_t hop = card_.hop_samples, overlap = card_.overlap_samples;
      const size_t shared = card_.frame_overlap_samples;
      const size_t beyond = samples_ > shared ? samples_ - shared : 0;
      const size_t all_frames = std::max<size_t>(1, (beyond + hop - 1) / hop);
      for (size_t missing = all_frames + tail_frames - frames_; missing > 0;) {
        pending_.resize(std::max(pending_.size(), card_.chunk_samples + overlap), 0.0f);
        const size_t heard = std::min(missing, card_.chunk_frames);
        decode(
            step({pending_.begin(), pending_.begin() + card_.chunk_samples + overlap}), heard, lines);
        pending_.erase(pending_.begin(), pending_.begin() + card_.chunk_samples);
        missing -= heard;
      }
    }
    const std::string last = decoder_.finish();
    if (!last.empty()) lines.push_back(last);
    return lines;
  }

 private:
  Card read_card() {
    const auto card = module_.execute("card");
    if (!card.ok() || card->size() != 1 || !card->at(0).isString())
      throw std::runtime_error("not an rdsdk artefact: no readable program with a card");
    const auto text = card->at(0).toString();
    return Card::read(std::string(text.data(), text.size()));
  }
  void decode(const std::vector<float>& log_probs, size_t frames, std::vector<std::string>& lines) {
    for (size_t frame = 0; frame < frames; ++frame) {
      const std::string line = decoder_.feed(log_probs.data() + frame * card_.symbols.size());
      if (!line.empty()) lines.push_back(line);
    }
  }

  executorch::extension::Module module_;
  Card card_;
  GreedyDecoder decoder_{card_};
  std::vector<std::vector<float>> state_;
  std::vector<float> pending_;
  size_t samples_ = 0, frames_ = 0;
};
