#include "dirigo/data/corpus.hpp"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <utility>

#include "dirigo/core/errors.hpp"
#include "dirigo/data/sha256.hpp"
#include "scratch_file.hpp"

using dirigo::IoError;
using dirigo::MappedFile;
using dirigo::TokenText;
using dirigo::ValueError;
using dirigo::Vocabulary;
using dirigo::test::ScratchFile;

namespace {

std::vector<std::uint8_t> bytes(const std::string& text) {
  return {text.begin(), text.end()};
}

std::string error_of(const std::string& path) {
  try {
    MappedFile file(path);
  } catch (const IoError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("SHA-256 agrees with the vectors of FIPS 180-4 and its companions") {
  CHECK(dirigo::sha256_hex({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(dirigo::sha256_hex(bytes("abc")) ==
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(dirigo::sha256_hex(bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(dirigo::sha256_hex(bytes("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
                                 "hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu")) ==
        "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
}

TEST_CASE("SHA-256 does not depend on how the bytes are cut") {
  const std::vector<std::uint8_t> million(1000000, 'a');
  dirigo::Sha256 hash;
  std::span<const std::uint8_t> rest = million;
  for (std::size_t chunk = 1; !rest.empty(); chunk = chunk * 7 % 1009) {
    const std::size_t taken = std::min(chunk, rest.size());
    hash.update(rest.first(taken));
    rest = rest.subspan(taken);
  }
  const std::string expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
  CHECK(hash.hex_digest() == expected);
  CHECK(hash.hex_digest() == expected);  // asking does not change it
}

TEST_CASE("a mapped file shows the bytes and their hash") {
  const ScratchFile scratch("abc");
  MappedFile file(scratch.path());
  CHECK(std::string(file.bytes().begin(), file.bytes().end()) == "abc");
  CHECK(file.sha256() == dirigo::sha256_hex(bytes("abc")));
  MappedFile moved(std::move(file));
  CHECK(moved.bytes().size() == 3);
  CHECK(file.bytes().empty());  // NOLINT(bugprone-use-after-move): the moved-from state is what is tested
  file = std::move(moved);
  CHECK(file.bytes().size() == 3);
}

TEST_CASE("a sparse file larger than what fits a 32-bit size can be mapped") {
  const ScratchFile scratch("begin");
  std::filesystem::resize_file(scratch.path(), (std::uint64_t{5} << 30) + 1);
  const MappedFile file(scratch.path());
  CHECK(file.bytes().size() == (std::uint64_t{5} << 30) + 1);
  CHECK(file.bytes()[0] == 'b');
  CHECK(file.bytes().back() == 0);
}

TEST_CASE("unusable files are errors that name the file and what is wrong") {
  const std::string missing = error_of("/nonexistent/text");
  CHECK(missing ==
        "[corpus] /nonexistent/text: expected a readable, non-empty file, got No such file or directory");
  const std::string directory = std::filesystem::temp_directory_path().string();
  CHECK(error_of(directory).find(directory + ": expected a readable, non-empty file, got a directory") !=
        std::string::npos);
  const ScratchFile empty("");
  CHECK(error_of(empty.path()).find("got an empty file") != std::string::npos);
  CHECK(error_of("/dev/null").find("got a special file") != std::string::npos);
  const ScratchFile pipe("");
  std::filesystem::remove(pipe.path());
  REQUIRE(::mkfifo(pipe.path().c_str(), 0600) == 0);
  CHECK(error_of(pipe.path()).find("got a special file") != std::string::npos);
}

TEST_CASE("the last tenth is held out unless there is a separate file") {
  const auto whole = dirigo::split_corpus(1115394, 0, {});
  CHECK(whole.train.begin == 0);
  CHECK(whole.train.end == 1003855);
  CHECK(whole.held_out.begin == 1003855);
  CHECK(whole.held_out.end == 1115394);
  const auto part = dirigo::split_corpus(1115394, 1000, {});
  CHECK(part.train.end == 1000);
  CHECK(part.held_out.begin == 1003855);
  const auto separate = dirigo::split_corpus(100, 0, 7);
  CHECK(separate.train.size() == 100);
  CHECK(separate.held_out.begin == 0);
  CHECK(separate.held_out.size() == 7);
  CHECK(dirigo::split_corpus(100, 100, 7).train.size() == 100);
  CHECK_THROWS_WITH_AS(
      dirigo::split_corpus(100, 91, {}),
      "[corpus] train_bytes: expected at most 90 (the first nine tenths of the corpus), got 91", ValueError);
  CHECK_THROWS_AS(dirigo::split_corpus(100, 101, 7), ValueError);
}

TEST_CASE("a token text leaves unknown bytes out and counts them") {
  const Vocabulary vocabulary({'a', 'b'});
  const auto clean = bytes("abba");
  const auto dirty = bytes("xabyybxa");
  for (const auto& text : {clean, dirty}) {
    const TokenText tokens(text, vocabulary);
    CHECK(tokens.size() == 4);
    std::vector<std::int32_t> read(4);
    tokens.read(0, read);
    CHECK(read == std::vector<std::int32_t>{0, 1, 1, 0});
    read.resize(2);
    tokens.read(1, read);
    CHECK(read == std::vector<std::int32_t>{1, 1});
  }
  CHECK(TokenText(clean, vocabulary).skipped() == 0);
  CHECK(TokenText(dirty, vocabulary).skipped() == 4);
}
