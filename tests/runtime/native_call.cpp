// Makes one call of native.cpp, for an emulated processor: `native_call NAME [VALUE]` answers a query, and `native_call run`
// reads a call from the standard input and writes its chunks. test_native_arm.py is the other side.

#include "native.cpp"

#include <cstdio>
#include <cstdlib>
#include <string>

static void read(void* to, size_t size) {
    if (fread(to, 1, size, stdin) != size) exit(3);
}

// The bytes of a tensor, which follow their number. A tensor that is absent has none.
static void* next() {
    int64_t size;
    read(&size, sizeof size);
    void* bytes = size ? malloc(size) : nullptr;
    read(bytes, size);
    return bytes;
}

template <class T, class Run> static void call(Run run) {
    Shape s;
    int64_t by_chunk, by_step, chunks, threads;
    read(&s, sizeof s);
    for (int64_t* number : {&by_chunk, &by_step, &chunks, &threads}) read(number, sizeof *number);
    std::vector<void*> ends(sizeof(Ends) / sizeof(void*)), blocks(s.depth * sizeof(Block<T>) / sizeof(void*));
    for (auto& tensor : ends) tensor = next();
    for (auto& tensor : blocks) tensor = next();
    auto noisy = (const float*)next(), values = (const float*)next();
    std::vector<float> out(chunks * s.horizon * s.action), scratch(scratch_size(&s, chunks, threads));
    for (int repeat = 0; repeat < 2; repeat++)  // The second call wakes the threads of the first.
        run(&s, (const Ends*)ends.data(), (const Block<T>*)blocks.data(), noisy, out.data(), values, by_chunk, by_step,
            chunks, scratch.data(), threads);
    fwrite(out.data(), sizeof(float), out.size(), stdout);
}

int main(int, char** words) {
    std::string what = words[1];
    if (what == "columns") printf("%d", columns());
    if (what == "has_bf16") printf("%d", has_bf16());
    if (what == "instructions") printf("%s", instructions(atoi(words[2])));
    if (what == "run_fp32") call<float>(run_fp32);
    if (what == "run_bf16") call<bf16>(run_bf16);
}
