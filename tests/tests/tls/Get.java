// Gets a page over TLS with Java, and says which version and authority it met.
import java.net.URL;
import java.security.cert.X509Certificate;
import javax.net.ssl.HttpsURLConnection;

public class Get {
    public static void main(String[] arguments) throws Exception {
        HttpsURLConnection connection =
            (HttpsURLConnection) new URL("https://any.lab.name/echo").openConnection();
        int status = connection.getResponseCode();
        X509Certificate leaf = (X509Certificate) connection.getServerCertificates()[0];
        System.out.println(status + " " + connection.getCipherSuite() + " " + leaf.getIssuerX500Principal());
    }
}
