#include "dirigo/nn/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "dirigo/core/atomic_file.hpp"

namespace dirigo::nn {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is copied as it lies in memory");

constexpr std::uint64_t length_bytes = 8;                      // of the field that holds the header's length
constexpr std::uint64_t max_header_bytes = 100 * 1000 * 1000;  // as in the reference implementation
constexpr const char* metadata_key = "__metadata__";

std::string_view dtype_code(DType dtype) {
  return dtype == DType::f32 ? "F32" : "F64";
}

// A name from a file, fit for a message.
std::string quote(const std::string& name) {
  constexpr std::size_t limit = 80;
  return name.size() <= limit ? '"' + name + '"' : '"' + name.substr(0, limit) + "...\"";
}

std::uint64_t byte_count(const Shape& shape, DType dtype) {
  return std::uint64_t(shape.size()) * dtype_bytes(dtype);  // Shape bounds the product: no overflow
}

struct Entry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::uint64_t begin = 0, end = 0;  // bytes, from the end of the header
};

// Reads the JSON header event by event, so that a hostile one costs no more memory than it has tensors, and
// sees duplicate keys, which a document tree would hide. Levels: 1 the header, 2 a tensor or the metadata, 3
// a list.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& path) : path_(path) {}

  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

  [[noreturn]] void fail(const std::string& what, const std::string& expected, const std::string& got) const {
    throw IoError(fmt::format("[safetensors] {}: {}: expected {}, got {}", path_, what, expected, got));
  }

  bool start_object(std::size_t) override {
    if (level_ > 1) unexpected("an object");
    if (++level_ == 2) tensor_ = RawTensor{};
    return true;
  }

  bool key(string_t& key) override {
    if (level_ == 1) {
      name_ = key;
      if (!names_.insert(key).second) fail(quote(key), "the name once", "it twice");
    } else if (in_metadata()) {
      if (metadata.count(key) > 0) fail("metadata " + quote(key), "the key once", "it twice");
    } else if (key != "dtype" && key != "shape" && key != "data_offsets") {
      fail(quote(name_), "dtype, shape and data_offsets", "the field " + quote(key));
    }
    field_ = key;
    return true;
  }

  bool string(string_t& text) override {
    if (level_ == 2 && in_metadata()) {
      metadata.emplace(field_, text);
    } else if (level_ == 2 && field_ == "dtype") {
      if (text != "F32" && text != "F64") fail(where(), "F32 or F64", quote(text));
      set_once(tensor_.dtype, text == "F32" ? DType::f32 : DType::f64);
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (level_ != 2 || in_metadata() || field_ == "dtype") unexpected("a list");
    ++level_;
    set_once(list(), {});
    return true;
  }

  bool number_unsigned(number_unsigned_t number) override {
    if (level_ != 3) unexpected("a number");
    const std::size_t limit = field_ == "shape" ? std::size_t(Shape::max_rank) : 2;
    if (list()->size() == limit) fail(where(), fmt::format("at most {} numbers", limit), "more");
    list()->push_back(number);
    return true;
  }

  bool end_array() override {
    --level_;
    return true;
  }

  bool end_object() override {
    if (level_-- == 2 && !in_metadata()) entries.push_back(finished_tensor());
    return true;
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t number) override { return unexpected(fmt::format("{}", number)); }
  bool number_float(number_float_t, const string_t& text) override { return unexpected(quote(text)); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    fail("header", "valid JSON", fmt::format("an error at byte {}", position));
  }

 private:
  using List = std::vector<std::uint64_t>;
  struct RawTensor {
    std::optional<DType> dtype;
    std::optional<List> shape, data_offsets;
  };

  bool in_metadata() const { return name_ == metadata_key; }
  std::optional<List>& list() { return field_ == "shape" ? tensor_.shape : tensor_.data_offsets; }

  std::string where() const {
    if (level_ < 2) return name_.empty() ? "header" : quote(name_);
    return fmt::format("{} of {}", quote(field_), quote(name_));
  }

  bool unexpected(const std::string& got) const {
    if (level_ < 2) fail(where(), "an object", got);
    if (in_metadata()) fail(where(), "a string", got);
    if (field_ == "dtype") fail(where(), "F32 or F64", got);
    fail(where(), "a list of numbers >= 0", got);
  }

  template <class T>
  void set_once(std::optional<T>& field, T value) const {
    if (field) fail(where(), "the field once", "it twice");
    field = std::move(value);
  }

  Entry finished_tensor() const {
    const std::string what = quote(name_);
    if (!tensor_.dtype || !tensor_.shape || !tensor_.data_offsets) {
      fail(what, "dtype, shape and data_offsets", "only some of them");
    }
    if (tensor_.data_offsets->size() != 2) fail("data_offsets of " + what, "two numbers", "fewer");
    Entry entry{name_, *tensor_.dtype, checked_shape(), (*tensor_.data_offsets)[0],
                (*tensor_.data_offsets)[1]};
    if (entry.begin > entry.end) {
      fail("data_offsets of " + what, "begin <= end", fmt::format("[{}, {}]", entry.begin, entry.end));
    }
    if (entry.end - entry.begin != byte_count(entry.shape, entry.dtype)) {
      fail("data_offsets of " + what,
           fmt::format("{} bytes for {} {}", byte_count(entry.shape, entry.dtype), dtype_code(entry.dtype),
                       entry.shape.to_string()),
           fmt::format("{}", entry.end - entry.begin));
    }
    return entry;
  }

  Shape checked_shape() const {
    std::vector<std::int64_t> extents;
    for (const std::uint64_t extent : *tensor_.shape) {
      if (extent > std::uint64_t(std::numeric_limits<std::int64_t>::max())) {
        fail("shape of " + quote(name_), "extents below 2^63", fmt::format("{}", extent));
      }
      extents.push_back(std::int64_t(extent));
    }
    try {
      return Shape(extents);
    } catch (const ShapeError&) {
      fail("shape of " + quote(name_), "fewer than 2^57 elements", "more");
    }
  }

  const std::string& path_;
  int level_ = 0;
  std::string name_, field_;
  RawTensor tensor_;
  std::unordered_set<std::string> names_;
};

// The tensors must cover the data without overlap or gap. Sorts them by position.
void check_layout(std::vector<Entry>& entries, std::uint64_t data_bytes, const HeaderReader& reader) {
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t position = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != position) {
      reader.fail("data_offsets of " + quote(entry.name), fmt::format("a start at {}", position),
                  fmt::format("{} ({})", entry.begin, entry.begin < position ? "an overlap" : "a gap"));
    }
    position = entry.end;
  }
  if (position != data_bytes) {
    reader.fail("data", fmt::format("{} bytes after the header", position), fmt::format("{}", data_bytes));
  }
}

// A file opened for reading, whose size is known.
class InputFile {
 public:
  explicit InputFile(const std::string& path) : path_(path) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) {
      throw IoError(fmt::format("[safetensors] {}: expected a file, got {}", path,
                                error ? error.message() : "something else"));
    }
    size_ = std::filesystem::file_size(path, error);
    stream_.open(path, std::ios::binary);
    if (error || !stream_) {
      throw IoError(fmt::format("[safetensors] {}: expected a readable file, got {}", path,
                                error ? error.message() : std::strerror(errno)));
    }
  }

  std::uint64_t size() const { return size_; }

  void read(void* target, std::uint64_t bytes) {
    stream_.read(static_cast<char*>(target), std::streamsize(bytes));
    if (std::uint64_t(stream_.gcount()) != bytes) {
      throw IoError(
          fmt::format("[safetensors] {}: expected {} more bytes, got {}", path_, bytes, stream_.gcount()));
    }
  }

 private:
  std::string path_;
  std::uint64_t size_ = 0;
  std::ifstream stream_;
};

std::string read_header(InputFile& file, const HeaderReader& reader) {
  if (file.size() < length_bytes) {
    reader.fail("size", "at least 8 bytes", fmt::format("{}", file.size()));
  }
  std::uint64_t length = 0;
  file.read(&length, length_bytes);
  const std::uint64_t limit = std::min(max_header_bytes, file.size() - length_bytes);
  if (length > limit) {
    reader.fail("header length", fmt::format("at most {}", limit), fmt::format("{}", length));
  }
  std::string header(length, '\0');
  file.read(header.data(), length);
  if (header.empty() || header.front() != '{') reader.fail("header", "a JSON object", "something else");
  return header;
}

void* raw_bytes(Tensor& tensor) {
  return visit_dtype(tensor.dtype(), [&](auto zero) -> void* { return tensor.data<decltype(zero)>(); });
}

const void* raw_bytes(const Tensor& tensor) {
  return visit_dtype(tensor.dtype(),
                     [&](auto zero) -> const void* { return tensor.span<decltype(zero)>().data(); });
}

std::string make_header(const NamedTensors& tensors, const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[metadata_key] = metadata;
  std::uint64_t position = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::uint64_t end = position + byte_count(tensor.shape(), tensor.dtype());
    header[name] = {{"dtype", dtype_code(tensor.dtype())},
                    {"shape", tensor.shape().extents()},
                    {"data_offsets", {position, end}}};
    position = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    throw ValueError("[safetensors] names and metadata: expected valid UTF-8, got other bytes");
  }
  text.append((8 - text.size() % 8) % 8, ' ');  // the data starts at a multiple of 8
  return text;
}

void check_names(const NamedTensors& tensors) {
  std::set<std::string> names = {metadata_key};
  for (const auto& [name, tensor] : tensors) {
    if (!names.insert(name).second) {
      throw ValueError(fmt::format(
          "[safetensors] {}: expected every name once and none reserved, got it again", quote(name)));
    }
    if (!tensor.defined()) {
      throw ValueError(fmt::format("[safetensors] {}: expected a defined tensor, got none", quote(name)));
    }
  }
}

}  // namespace

const Tensor* SafetensorsFile::find(const std::string& name) const {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const auto& entry) { return entry.first == name; });
  return found == tensors.end() ? nullptr : &found->second;
}

void write_safetensors(const std::string& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata) {
  check_names(tensors);
  const std::string header = make_header(tensors, metadata);
  const std::uint64_t length = header.size();
  if (length > max_header_bytes) {
    throw ValueError(
        fmt::format("[safetensors] header: expected at most {} bytes, got {}", max_header_bytes, length));
  }
  AtomicFile file(path);
  file.write(&length, length_bytes);
  file.write(header.data(), header.size());
  for (const auto& [name, tensor] : tensors) {
    file.write(raw_bytes(tensor), byte_count(tensor.shape(), tensor.dtype()));
  }
  file.commit();
}

SafetensorsFile read_safetensors(const Context& context, const std::string& path) {
  InputFile file(path);
  HeaderReader reader(path);
  const std::string header = read_header(file, reader);
  nlohmann::json::sax_parse(header, &reader);
  check_layout(reader.entries, file.size() - length_bytes - header.size(), reader);

  SafetensorsFile result{{}, std::move(reader.metadata)};
  for (Entry& entry : reader.entries) {
    Tensor tensor = Tensor::empty(context, entry.shape, entry.dtype);
    file.read(raw_bytes(tensor), entry.end - entry.begin);
    result.tensors.emplace_back(std::move(entry.name), std::move(tensor));
  }
  return result;
}

void load_parameters(const SafetensorsFile& file, const std::string& path,
                     const std::vector<NamedParameter>& parameters) {
  const auto fail = [&](const std::string& name, const std::string& expected, const std::string& got) {
    throw IoError(fmt::format("[safetensors] {}: {}: expected {}, got {}", path, quote(name), expected, got));
  };
  const auto describe = [](const Tensor& tensor) {
    return fmt::format("{} {}", dtype_code(tensor.dtype()), tensor.shape().to_string());
  };
  std::unordered_map<std::string, const Tensor*> unused;
  for (const auto& [name, tensor] : file.tensors) unused.emplace(name, &tensor);

  std::vector<const Tensor*> sources;
  for (const auto& [name, parameter] : parameters) {
    const auto found = unused.find(name);
    if (found == unused.end()) fail(name, describe(parameter->value), "no such tensor");
    const Tensor& source = *found->second;
    if (source.shape() != parameter->value.shape() || source.dtype() != parameter->value.dtype()) {
      fail(name, describe(parameter->value), describe(source));
    }
    sources.push_back(&source);
    unused.erase(found);
  }
  for (const auto& [name, tensor] : file.tensors) {  // in file order, so that the message is always the same
    if (unused.count(name) > 0) fail(name, "only tensors of the model", "an unknown one");
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].parameter->value.copy_from(*sources[i]);
}

}  // namespace dirigo::nn
