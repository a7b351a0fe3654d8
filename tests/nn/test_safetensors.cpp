#include <doctest/doctest.h>
#include <sys/resource.h>

#include <bit>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "dirigo/core/philox.hpp"
#include "dirigo/nn/safetensors.hpp"
#include "temporary_directory.hpp"

using namespace dirigo;
using namespace dirigo::nn;

namespace {

// A file with this header (unpadded) and `data_bytes` bytes 0, 1, 2, ...
std::string make_file(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  bytes += header;
  for (std::size_t i = 0; i < data_bytes; ++i) bytes += char(i);
  return bytes;
}

// The message of the IoError that reading `bytes` throws, or "loaded".
std::string read_error(const Context& context, const TemporaryDirectory& directory,
                       const std::string& bytes) {
  const std::string path = directory.file("damaged.safetensors");
  write_bytes(path, bytes);
  try {
    read_safetensors(context, path);
  } catch (const IoError& error) {
    return error.what();
  }
  return "loaded";
}

NamedTensors small_tensors(const Context& context) {
  const std::vector<float> floats = {1, -2.5f, 3, 4, 5, 6};
  const std::vector<double> doubles = {0.1, -0.2};
  return {{"a.weight", Tensor::from<float>(context, {2, 3}, floats)},
          {"empty", Tensor::zeros(context, {0, 4})},
          {"b", Tensor::from<double>(context, {2}, doubles)},
          {"scalar", Tensor::full(context, {}, 7)}};
}

void check_same(const NamedTensors& a, const NamedTensors& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].first == b[i].first);
    CHECK(a[i].second.dtype() == b[i].second.dtype());
    CHECK(a[i].second.shape() == b[i].second.shape());
    CHECK(a[i].second.to_vector() == b[i].second.to_vector());
  }
}

const std::string good_header =
    R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})";

}  // namespace

TEST_CASE("safetensors: what was written is read back") {
  const Context context;
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.safetensors");
  const NamedTensors tensors = small_tensors(context);
  write_safetensors(path, tensors, {{"version", "1"}, {"note", "\"quoted\" \xC3\xA4"}});

  const SafetensorsFile file = read_safetensors(context, path);
  check_same(file.tensors, tensors);
  CHECK(file.metadata ==
        std::map<std::string, std::string>{{"version", "1"}, {"note", "\"quoted\" \xC3\xA4"}});
  REQUIRE(file.find("scalar") != nullptr);
  CHECK(file.find("scalar")->item() == 7);
  CHECK(file.find("c") == nullptr);
  CHECK(directory.entries() == 1);  // no temporary file is left

  write_safetensors(path, {});  // replaces; a file without tensors is a file
  CHECK(read_safetensors(context, path).tensors.empty());
}

TEST_CASE("safetensors: the bytes are those of the format") {
  const Context context;
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.safetensors");
  const std::vector<float> values = {1, 2};
  write_safetensors(path, {{"x", Tensor::from<float>(context, {2, 1}, values)}});
  const std::string header = R"({"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  CHECK(read_bytes(path) == std::string{char(padded.size()), 0, 0, 0, 0, 0, 0, 0} + padded +
                                std::string{0, 0, '\x80', 0x3f, 0, 0, 0, 0x40});
}

TEST_CASE("safetensors: NaN payloads, infinities, -0 and denormals keep their bits") {
  const Context context;
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.safetensors");
  const std::vector<std::uint32_t> bits = {0x7fc01234, 0xffa00001, 0x7f800000, 0xff800000, 0x80000000, 1};
  std::vector<float> values(bits.size());
  std::memcpy(values.data(), bits.data(), 4 * bits.size());
  write_safetensors(path, {{"x", Tensor::from<float>(context, {6}, values)}});
  const SafetensorsFile file = read_safetensors(context, path);
  CHECK(std::memcmp(file.tensors.at(0).second.data<float>(), bits.data(), 4 * bits.size()) == 0);
}

TEST_CASE("safetensors: tensors come in the order of their data, whatever the header's") {
  const Context context;
  const TemporaryDirectory directory;
  const std::string path = directory.file("x");
  write_bytes(path, make_file(R"( {"y":{"shape":[1],"data_offsets":[8,12],"dtype":"F32"},)"
                              R"("x":{"dtype":"F64","shape":[],"data_offsets":[0,8]}} )",
                              12));
  CHECK_THROWS_AS(read_safetensors(context, path), IoError);  // the header must begin with {
  write_bytes(path, make_file(R"({"y":{"shape":[1],"data_offsets":[8,12],"dtype":"F32"},)"
                              R"("x":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}   )",
                              12));
  const SafetensorsFile file = read_safetensors(context, path);
  REQUIRE(file.tensors.size() == 2);
  CHECK(file.tensors[0].first == "x");
  CHECK(file.tensors[1].first == "y");
  CHECK(std::bit_cast<std::uint32_t>(file.tensors[1].second.data<float>()[0]) == 0x0b0a0908);
}

TEST_CASE("safetensors: bad arguments of the writer") {
  const Context context;
  const TemporaryDirectory directory;
  const std::string path = directory.file("x");
  const Tensor x = Tensor::zeros(context, {2, 3});
  CHECK_THROWS_AS(write_safetensors(path, {{"x", x}, {"x", x}}), ValueError);
  CHECK_THROWS_AS(write_safetensors(path, {{"__metadata__", x}}), ValueError);
  CHECK_THROWS_AS(write_safetensors(path, {{"x", Tensor{}}}), ValueError);
  CHECK_THROWS_AS(write_safetensors(path, {{"\xff", x}}), ValueError);
  CHECK_THROWS_AS(write_safetensors(path, {{"x", x.transpose(0, 1)}}), ShapeError);
  CHECK(directory.entries() == 0);
}

TEST_CASE("safetensors: a write that fails leaves the old file and nothing else") {
  const Context context;
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.safetensors");
  const NamedTensors tensors = small_tensors(context);
  CHECK_THROWS_AS(write_safetensors(directory.file("missing/model.safetensors"), tensors), IoError);

  write_safetensors(path, tensors);
  // A full disk, as far as the writer can tell: the file may not grow beyond 4 KiB.
  rlimit old_limit{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &old_limit) == 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = old_limit;
  limit.rlim_cur = 4096;
  REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  std::string message = "written";
  try {
    write_safetensors(path, {{"large", Tensor::zeros(context, {10000})}});
  } catch (const IoError& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  CHECK(message.find(path) != std::string::npos);
  CHECK(directory.entries() == 1);
  check_same(read_safetensors(context, path).tensors, tensors);

  std::filesystem::create_directory(directory.file("folder"));  // renaming a file to a folder fails
  CHECK_THROWS_AS(write_safetensors(directory.file("folder"), tensors), IoError);
  CHECK(directory.entries() == 2);
}

TEST_CASE("safetensors: a file cut short anywhere is refused") {
  const Context context;
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.safetensors");
  write_safetensors(path, small_tensors(context), {{"key", "value"}});
  const std::string bytes = read_bytes(path);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    CAPTURE(size);
    CHECK(read_error(context, directory, bytes.substr(0, size)) != "loaded");
  }
  CHECK(read_error(context, directory, bytes) == "loaded");
  CHECK(read_error(context, directory, bytes + '\0') != "loaded");
}

TEST_CASE("safetensors: flipped bits load or throw IoError") {
  const Context context;
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.safetensors");
  write_safetensors(path, small_tensors(context), {{"key", "value"}});
  const std::string bytes = read_bytes(path);
  int refused = 0;
  for (std::uint32_t variant = 0; variant < 2000; ++variant) {
    PhiloxStream random(random_key(7, 0, Purpose::test), variant);
    std::string damaged = bytes;
    const std::uint64_t flips = 1 + random.below(4);
    for (std::uint64_t i = 0; i < flips; ++i) {
      char& byte = damaged[random.below(damaged.size())];
      byte = char(byte ^ (1 << random.below(8)));
    }
    if (read_error(context, directory, damaged) != "loaded") ++refused;  // any other exception fails the test
  }
  CHECK(refused > 1000);  // most of the file is header
  CHECK(refused < 2000);
}

TEST_CASE("safetensors: hostile headers are refused with the reason") {
  const Context context;
  const TemporaryDirectory directory;
  REQUIRE(read_error(context, directory, make_file(good_header, 12)) == "loaded");
  const auto one = [](const std::string& fields) { return R"({"x":{)" + fields + "}}"; };

  struct Case {
    const char* what;
    std::string header;
    std::size_t data_bytes;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"overlap",
       R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12, "overlap"},
      {"gap",
       R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
       12, "gap"},
      {"gap before the first", one(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), 8, "gap"},
      {"beyond the end", good_header, 11, "12 bytes after the header, got 11"},
      {"more data than tensors", good_header, 13, "12 bytes after the header, got 13"},
      {"end before begin", one(R"("dtype":"F32","shape":[1],"data_offsets":[8,4])"), 8, "begin <= end"},
      {"size against shape", one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), 8,
       "12 bytes for F32 (3)"},
      {"dtype of other widths", one(R"("dtype":"BF16","shape":[4],"data_offsets":[0,8])"), 8, "F32 or F64"},
      {"dtype not a string", one(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), 8, "F32 or F64"},
      {"negative extent", one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), 8,
       "numbers >= 0, got -2"},
      {"two negative extents", one(R"("dtype":"F32","shape":[-1,-2],"data_offsets":[0,8])"), 8, "got -1"},
      {"fractional extent", one(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), 8, "numbers >= 0"},
      {"extent beyond 64 bits", one(R"("dtype":"F32","shape":[18446744073709551618],"data_offsets":[0,8])"),
       8, "numbers >= 0"},
      {"extent beyond 63 bits", one(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0])"), 0,
       "below 2^63"},
      {"product overflows to 0", one(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
       0, "2^57"},
      {"product overflows to 2", one(R"("dtype":"F32","shape":[9223372036854775807,2],"data_offsets":[0,8])"),
       8, "2^57"},
      {"seven axes", one(R"("dtype":"F32","shape":[1,1,1,1,1,1,2],"data_offsets":[0,8])"), 8, "at most 6"},
      {"three offsets", one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), 8, "at most 2"},
      {"one offset", one(R"("dtype":"F32","shape":[2],"data_offsets":[8])"), 8, "two numbers"},
      {"nested shape", one(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), 8, "got a list"},
      {"missing dtype", one(R"("shape":[2],"data_offsets":[0,8])"), 8, "only some of them"},
      {"null shape", one(R"("dtype":"F32","shape":null,"data_offsets":[0,8])"), 8, "got null"},
      {"unknown field", one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"z":1)"), 8, "the field \"z\""},
      {"duplicate field", one(R"("dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8])"), 8, "twice"},
      {"duplicate tensor",
       R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "the name once"},
      {"duplicate metadata", R"({"__metadata__":{"k":"1","k":"2"}})", 0, "the key once"},
      {"metadata not strings", R"({"__metadata__":{"k":1}})", 0, "a string"},
      {"nested metadata", R"({"__metadata__":{"k":{"l":"1"}}})", 0, "got an object"},
      {"tensor not an object", R"({"x":[1]})", 0, "\"x\": expected an object"},
      {"not an object", R"([1])", 0, "a JSON object"},
      {"empty header", "", 0, "a JSON object"},
      {"not JSON", "{\"x\"", 0, "valid JSON"},
      {"text after the object", "{}{}", 0, "valid JSON"},
      {"invalid UTF-8", "{\"\xff\":{}}", 0, "valid JSON"},
      {"deep nesting", "{\"x\":" + std::string(1000000, '['), 0, "expected an object"},
      {"deep objects",
       [] {
         std::string text = "{\"x\":";
         for (int i = 0; i < 100000; ++i) text += "{\"shape\":";
         return text;
       }(),
       0, "got an object"},
      {"endless list",
       one(R"("dtype":"F32","shape":[)" +
           [] {
             std::string text = "1";
             for (int i = 0; i < 500000; ++i) text += ",1";
             return text;
           }() +
           "]"),
       0, "at most 6"},
      {"long name", "{\"" + std::string(1000000, 'n') + "\":1}", 0, "..."},
  };
  for (const Case& c : cases) {
    CAPTURE(c.what);
    const std::string message = read_error(context, directory, make_file(c.header, c.data_bytes));
    CAPTURE(message.substr(0, 300));
    CHECK(message.find(c.message) != std::string::npos);
    CHECK(message.find("damaged.safetensors") != std::string::npos);
    CHECK(message.size() < 500);
  }
}

TEST_CASE("safetensors: a header length beyond the file or the limit is refused before it is read") {
  const Context context;
  const TemporaryDirectory directory;
  for (const std::uint64_t length : {std::uint64_t{200}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    std::string bytes = make_file(good_header, 12);
    std::memcpy(bytes.data(), &length, 8);
    CAPTURE(length);
    CHECK(read_error(context, directory, bytes).find("header length") != std::string::npos);
  }
  // A sparse file of 1 TiB with a header of 101 MB: refused without reading it.
  const std::string path = directory.file("damaged.safetensors");
  std::string bytes = make_file(good_header, 12);
  const std::uint64_t length = 101 * 1000 * 1000;
  std::memcpy(bytes.data(), &length, 8);
  write_bytes(path, bytes);
  std::filesystem::resize_file(path, std::uintmax_t{1} << 40);
  CHECK_THROWS_WITH_AS(read_safetensors(context, path), doctest::Contains("at most 100000000"), IoError);
}

TEST_CASE("safetensors: what is not a file is refused") {
  const Context context;
  const TemporaryDirectory directory;
  CHECK_THROWS_AS(read_safetensors(context, directory.file("missing")), IoError);
  CHECK_THROWS_AS(read_safetensors(context, directory.file("")), IoError);
  CHECK_THROWS_AS(read_safetensors(context, "/dev/zero"), IoError);
}

TEST_CASE("load_parameters: all or nothing, by name") {
  const Context context;
  Parameter a{Tensor::zeros(context, {2, 3}), {}}, b{Tensor::zeros(context, {2}, DType::f64), {}};
  const std::vector<NamedParameter> parameters = {{"a.weight", &a}, {"b", &b}};
  NamedTensors tensors = small_tensors(context);
  const auto error = [&](const NamedTensors& given) {
    const SafetensorsFile file{given, {}};
    try {
      load_parameters(file, "some/path", parameters);
    } catch (const IoError& e) {
      CHECK(a.value.to_vector() == std::vector<double>(6));
      return std::string(e.what());
    }
    return std::string("loaded");
  };
  CHECK(error({tensors[0]}) == "[safetensors] some/path: \"b\": expected F64 (2), got no such tensor");
  CHECK(error({tensors[0], tensors[2], tensors[3]}) ==
        "[safetensors] some/path: \"scalar\": expected only tensors of the model, got an unknown one");
  CHECK(error({tensors[0], {"b", Tensor::zeros(context, {2})}}).find("got F32 (2)") != std::string::npos);
  CHECK(error({tensors[0], {"b", Tensor::zeros(context, {3}, DType::f64)}}).find("got F64 (3)") !=
        std::string::npos);
  CHECK(error({tensors[2], tensors[0]}) == "loaded");
  CHECK(a.value.to_vector() == tensors[0].second.to_vector());
  CHECK(b.value.to_vector() == tensors[2].second.to_vector());
}
