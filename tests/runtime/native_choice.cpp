// Chooses among ways to work whose costs are given: `native_choice BEFORE ... / AFTER ...` prints how often each way is
// chosen in 320 calls at the first costs, and then in 3,200 at the second. test_native.py is the other side.

#include "native.cpp"

#include <cstdio>
#include <cstdlib>

int main(int count, char** words) {
    std::vector<double> costs[2];
    for (int i = 1, part = 0; i < count; i++)
        if (*words[i] == '/') part = 1;
        else costs[part].push_back(atof(words[i]));
    Choice choice;
    choice.cost.resize(costs[0].size());
    for (int part = 0; part < 2; part++) {
        std::vector<int> chosen(costs[part].size());
        for (int i = 0; i < (part ? 3200 : 320); i++) {
            size_t way = choice.next();
            chosen[way]++;
            choice.learn(way, costs[part][way]);
        }
        for (int each : chosen) printf("%d ", each);
        printf("\n");
    }
}
