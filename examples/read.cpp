// Read drawings and clean scans with OpenCV's dnn alone, dark on light or light on dark.
//
//   python export.py --checkpoint checkpoints/small80.pt --out network.onnx
//   python -c "from checkpoint import load; from config import DEFAULT_CHECKPOINT as file;
//   print(''.join(load(file)['classes']))" > classes.txt
//   g++ -std=c++17 -O2 -I/usr/include/opencv4 examples/read.cpp -o read
//       -lopencv_dnn -lopencv_imgcodecs -lopencv_imgproc -lopencv_core
//   ./read network.onnx classes.txt 80 samples/U+6C38.png
//
// Debian: apt-get install libopencv-dnn-dev libopencv-imgcodecs-dev libopencv-imgproc-dev.
// glyph() is picture.to_glyph for clean scans; photos need more (see picture/).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

// Ink, 0 = paper, of a picture: transparency is paper, and so is what covers most of the rest.
cv::Mat ink(const cv::Mat& picture) {
  cv::Mat grey;
  if (picture.channels() == 4) {
    cv::extractChannel(picture, grey, 3);
    if (cv::countNonZero(grey == 255) < int(grey.total())) return grey;
  }
  if (picture.channels() >= 3) cv::cvtColor(picture, grey, cv::COLOR_BGR2GRAY);
  else grey = picture;
  const double mean = cv::mean(grey)[0];
  return mean < 128 ? grey : cv::Mat(255 - grey);
}

// Crop to the ink, keep the aspect ratio, centre, and level: (size,size) uint8.
cv::Mat glyph(const cv::Mat& ink, int size) {
  double darkest;
  cv::minMaxLoc(ink, nullptr, &darkest);
  const cv::Rect box = cv::boundingRect(ink > 0.15 * darkest);
  const double scale = double(size - 2 * (size / 32)) / std::max(box.width, box.height);
  const cv::Size to(std::max(1, cvRound(box.width * scale)), std::max(1, cvRound(box.height * scale)));
  cv::Mat small, out = cv::Mat::zeros(size, size, CV_8U);
  cv::resize(ink(box), small, to, 0, 0, scale < 1 ? cv::INTER_AREA : cv::INTER_LINEAR);
  // The 95th percentile of the inked pixels becomes 255.
  double most;
  cv::minMaxLoc(small, nullptr, &most);
  std::vector<uchar> inked;
  for (uchar value : cv::Mat_<uchar>(small))
    if (value > int(most) / 4) inked.push_back(value);
  std::sort(inked.begin(), inked.end());
  const size_t rank = size_t(std::ceil(0.95 * inked.size()));
  cv::convertScaleAbs(small, small, 255.0 / (inked.empty() ? 1 : inked[std::max<size_t>(rank, 1) - 1]));
  small.copyTo(out(cv::Rect((size - to.width) / 2, (size - to.height) / 2, to.width, to.height)));
  return out;
}

int main(int argc, char** argv) {
  if (argc < 5) {
    std::cerr << "usage: read NETWORK.onnx CLASSES.txt SIZE PICTURE...\n";
    return 2;
  }
  cv::dnn::Net network;
  std::ifstream file(argv[2]);
  try {
    network = cv::dnn::readNetFromONNX(argv[1]);
  } catch (const cv::Exception&) {
    std::cerr << argv[1] << ": not a network of export.py\n";
    return 2;
  }
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::vector<std::string> classes;
  for (char byte : text) {  // UTF-8: a byte 10xxxxxx goes on with the character before
    if (byte == '\n') continue;
    if ((byte & 0xC0) == 0x80) classes.back() += byte;
    else classes.emplace_back(1, byte);
  }
  const int size = std::atoi(argv[3]);
  if (classes.empty() || size < 16) {
    std::cerr << "expected a file of classes, not " << argv[2] << ", and the side of a glyph, not "
              << argv[3] << "\n";
    return 2;
  }
  int status = 0;
  for (int i = 4; i < argc; i++) {
    const cv::Mat picture = cv::imread(argv[i], cv::IMREAD_UNCHANGED);
    const cv::Mat inked = picture.empty() ? picture : ink(picture);
    double paper = 0, darkest = 0;
    if (!picture.empty()) cv::minMaxLoc(inked, &paper, &darkest);
    if (darkest - paper < 10) {
      std::cerr << argv[i] << (picture.empty() ? ": no such file, or not a picture that OpenCV reads\n"
                                               : ": no ink was found; photos need predict.py\n");
      status = 2;
      continue;
    }
    network.setInput(cv::dnn::blobFromImage(glyph(inked, size), 1 / 255.0));
    const cv::Mat logits = network.forward();
    cv::Point best;
    cv::minMaxLoc(logits, nullptr, nullptr, nullptr, &best);
    std::cout << argv[i] << ": " << classes.at(best.x) << "\n";
  }
  return status;
}
