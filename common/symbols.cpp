#include "common/symbols.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>

namespace wuneng {
namespace {

// A file in memory for as long as the object lives; empty when it cannot be had.
class MappedFile {
 public:
  explicit MappedFile(const char* path) {
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    struct stat status {};
    if (::fstat(file, &status) == 0 && status.st_size > 0) {
      size_ = static_cast<std::size_t>(status.st_size);
      void* const data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
      data_ = data == MAP_FAILED ? nullptr : static_cast<const char*>(data);
    }
    ::close(file);
  }
  ~MappedFile() {
    if (data_) ::munmap(const_cast<char*>(data_), size_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // `count` objects of type T at `offset`; null when the file is too short for them.
  template <class T>
  const T* at(std::uint64_t offset, std::uint64_t count = 1) const {
    if (!data_ || offset > size_ || count > (size_ - offset) / sizeof(T)) return nullptr;
    return reinterpret_cast<const T*>(data_ + offset);
  }

 private:
  const char* data_ = nullptr;
  std::size_t size_ = 0;
};

struct Found {
  std::string name;
  std::uint64_t offset = 0;  // of the address from the function's start
};

// The function that covers `address` (of the file's own addresses) in one of its tables of symbols.
Found find_in_table(const MappedFile& file, const Elf64_Shdr& table, const Elf64_Shdr& names,
                    std::uint64_t address) {
  const std::uint64_t count = table.sh_size / sizeof(Elf64_Sym);
  const auto* symbols = file.at<Elf64_Sym>(table.sh_offset, count);
  const auto* text = file.at<char>(names.sh_offset, names.sh_size);
  if (!symbols || !text || names.sh_size == 0 || text[names.sh_size - 1] != '\0') return {};
  for (std::uint64_t i = 0; i < count; ++i) {
    const Elf64_Sym& symbol = symbols[i];
    const bool covers = ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_name < names.sh_size &&
                        address >= symbol.st_value && address - symbol.st_value < symbol.st_size;
    if (covers) return {text + symbol.st_name, address - symbol.st_value};
  }
  return {};
}

Found find_in_file(const char* path, std::uint64_t load_address, std::uint64_t address) {
  const MappedFile file(path);
  const auto* header = file.at<Elf64_Ehdr>(0);
  if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
      header->e_ident[EI_CLASS] != ELFCLASS64)
    return {};
  const auto* sections = file.at<Elf64_Shdr>(header->e_shoff, header->e_shnum);
  if (!sections) return {};
  const std::uint64_t own = header->e_type == ET_DYN ? address - load_address : address;
  for (int i = 0; i < header->e_shnum; ++i) {
    const Elf64_Shdr& section = sections[i];
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= header->e_shnum) continue;
    return find_in_table(file, section, sections[section.sh_link], own);
  }
  return {};
}

std::string readable(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> plain(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), &std::free);
  const std::string text = status == 0 ? plain.get() : name;
  constexpr std::size_t longest = 160;  // templates of tensors fill a screen
  return text.size() <= longest ? text : text.substr(0, longest) + "...";
}

}  // namespace

std::string symbol_at(const void* address) {
  Dl_info info{};
  if (::dladdr(address, &info) == 0 || !info.dli_fname) return fmt::format("{}", fmt::ptr(address));
  const auto place = reinterpret_cast<std::uint64_t>(address);
  const auto base = reinterpret_cast<std::uint64_t>(info.dli_fbase);
  // The program's own name may be relative to a folder that is no longer current.
  Dl_info own{};
  const bool in_program =
      ::dladdr(reinterpret_cast<const void*>(&symbol_at), &own) != 0 && own.dli_fbase == info.dli_fbase;
  Found found = find_in_file(in_program ? "/proc/self/exe" : info.dli_fname, base, place);
  if (found.name.empty() && info.dli_sname)
    found = {info.dli_sname, place - reinterpret_cast<std::uint64_t>(info.dli_saddr)};
  const std::string_view path = info.dli_fname;
  const std::string where = fmt::format("{} {:#x}", path.substr(path.rfind('/') + 1), place - base);
  return found.name.empty() ? where
                            : fmt::format("{} + {:#x} ({})", readable(found.name), found.offset, where);
}

}  // namespace wuneng
