// What C++ programs do: exceptions through frames and threads, containers, streams, futures,
// timed waits. Prints "ok NAME" per step and "all ok".
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#define CHECK(is) \
    do { if (!(is)) { std::cout << "FAILED line " << __LINE__ << ": " #is << std::endl; std::exit(1); } } while (0)

static int destroyed;

struct Guard {
    ~Guard() { destroyed++; }
};

static int deep(int depth) {
    Guard guard;
    if (depth == 0) throw std::out_of_range("the bottom");
    return deep(depth - 1) + 1;
}

static void exceptions() {
    try {
        deep(100);
        CHECK(false);
    } catch (const std::logic_error &error) {
        CHECK(std::string(error.what()) == "the bottom" && destroyed == 101);
    }
    for (int i = 0; i < 2000; i++) {
        try { throw i; } catch (int thrown) { CHECK(thrown == i); }
    }
    auto failing = std::async(std::launch::async, []() -> int { throw std::runtime_error("elsewhere"); });
    try { failing.get(); CHECK(false); } catch (const std::runtime_error &) {}
    try { std::vector<int>().at(5); CHECK(false); } catch (const std::out_of_range &) {}
    volatile size_t huge = 1ul << 60;
    try { std::vector<char>(huge).at(0); CHECK(false); } catch (const std::exception &) {}
}

static void threads() {
    std::mutex lock;
    std::condition_variable ready;
    std::atomic<long> sum{0};
    bool is_open = false;
    std::vector<std::thread> all;
    for (int i = 0; i < 32; i++)
        all.emplace_back([&, i] {
            std::unique_lock held(lock);
            ready.wait(held, [&] { return is_open; });
            sum += i;
            try { deep(10); } catch (const std::exception &) { sum += 1000; }
        });
    { std::lock_guard held(lock); is_open = true; }
    ready.notify_all();
    for (auto &thread : all) thread.join();
    CHECK(sum == 32 * 31 / 2 + 32000);
    std::unique_lock held(lock);
    CHECK(ready.wait_for(held, std::chrono::milliseconds(20)) == std::cv_status::timeout);
    thread_local int own = 5;
    std::thread([] { own = 6; }).join();
    CHECK(own == 5);
    std::vector<std::future<long>> parts;
    for (long i = 0; i < 16; i++)
        parts.push_back(std::async(std::launch::async, [i] {
            std::vector<long> numbers(10000);
            std::iota(numbers.begin(), numbers.end(), i);
            return std::accumulate(numbers.begin(), numbers.end(), 0l);
        }));
    long total = 0;
    for (auto &part : parts) total += part.get();
    CHECK(total == 16 * 49995000l + 10000l * 120);
}

static void library() {
    std::map<std::string, int> counts;
    std::mt19937 random(42);
    for (int i = 0; i < 20000; i++) counts["key " + std::to_string(random() % 1000)]++;
    CHECK(counts.size() == 1000);
    { std::ofstream out("/tmp/stream"); for (auto &[key, count] : counts) out << key << '\t' << count << '\n'; }
    std::ifstream in("/tmp/stream");
    std::string line;
    int lines = 0, total = 0;
    std::regex shape("key (\\d+)\t(\\d+)");
    for (std::smatch found; std::getline(in, line); lines++) {
        CHECK(std::regex_match(line, found, shape));
        total += std::stoi(found[2]);
    }
    CHECK(lines == 1000 && total == 20000 && std::remove("/tmp/stream") == 0);
    std::random_device device;
    CHECK(device() != device() || device() != device());
    auto before = std::chrono::steady_clock::now();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    CHECK(std::chrono::steady_clock::now() - before >= std::chrono::milliseconds(10));
}

int main() {
    exceptions();
    std::cout << "ok exceptions" << std::endl;
    threads();
    std::cout << "ok threads" << std::endl;
    library();
    std::cout << "ok library\nall ok" << std::endl;
}
